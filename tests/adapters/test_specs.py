"""What the adapters say about a model, and which models they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenprune_adapters.encoders_plugin import ADAPTERS, register_adapters
from torch import nn

from tests import models, towers
from tests.adapters.variants import VARIANTS, adapted
from tokenprune.interface.signals import Signal


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_spec_matches_what_reaches_the_first_block(name: str) -> None:
    variant = VARIANTS[name]
    adapter = adapted(variant.build())
    spec = adapter.spec()
    assert (adapter.name, spec.prefix, spec.class_token) == (
        variant.adapter,
        variant.prefix,
        variant.class_token,
    )
    assert spec.used == len(spec.blocks) == models.DEPTH
    seen = []
    spec.blocks[0].register_forward_hook(lambda block, args, output: seen.append(output.shape[1]))
    inputs = variant.inputs()
    spec.entry(**inputs) if isinstance(inputs, dict) else spec.entry(inputs)
    assert spec.grid == (1, models.SIDE, models.SIDE)
    assert seen == [spec.prefix + models.PATCHES]


@pytest.mark.parametrize("name", VARIANTS)
def test_class_attention_is_offered_only_with_a_class_token(name: str) -> None:
    adapter = adapted(VARIANTS[name].build())
    supplied = adapter.spec().supplies
    signals = {signal for signal in Signal.shipped().values() if signal.needs in supplied}
    assert (Signal.CLS_ATTENTION in signals) == VARIANTS[name].class_token
    assert (Signal.CLS_SIMILARITY in signals) == VARIANTS[name].class_token
    always = {Signal.ATTENTION_RECEIVED, Signal.ATTENTION_GIVEN, Signal.LOGITS_RECEIVED}
    always |= {Signal.LOGITS_GIVEN, Signal.KEYS, Signal.PREVIOUS_HIDDEN, Signal.COMPANIONS}
    always |= {Signal.HIDDEN}
    assert always <= signals
    assert Signal.LAST_QUERY_ATTENTION not in signals
    assert supplied <= adapter.supplies


@pytest.mark.parametrize(
    ("build", "inner"),
    [
        (models.clip_vision, lambda m: m),
        (lambda: models.clip_vision(projected=True), lambda m: m.vision_model),
        (models.clip, lambda m: m.vision_model),
        (models.siglip, lambda m: m.vision_model),
        (models.timm_vit, lambda m: m),
        (towers.internvl, lambda m: m),
        (towers.idefics3, lambda m: m),
        (lambda: towers.dinov2(classifier=True), lambda m: m.dinov2),
        (lambda: towers.dinov2(classifier=True, registers=2), lambda m: m.dinov2_with_registers),
        (towers.dinov3, lambda m: m),
    ],
)
def test_entry_is_the_module_that_all_callers_reach(
    build: Callable[[], Any], inner: Callable[[Any], Any]
) -> None:
    model = build()
    assert adapted(model).spec().entry is inner(model)


@torch.no_grad()
def test_entry_runs_for_image_features_alone() -> None:
    model = models.clip()
    calls = []
    adapted(model).spec().entry.register_forward_hook(lambda *_: calls.append(1))
    model.get_image_features(pixel_values=models.pixels())
    assert calls == [1]


@pytest.mark.parametrize(
    "build",
    [
        models.clip_vision,
        models.siglip_vision,
        towers.internvl,
        towers.idefics3,
        towers.dinov2,
        towers.dinov3,
    ],
)
def test_grid_follows_the_pictures_when_positions_are_interpolated(
    build: Callable[[], Any],
) -> None:
    adapter = adapted(build())
    larger = torch.zeros(1, 3, 64, 80)
    assert adapter.call_grid((), {"pixel_values": larger}) == (1, 8, 10)
    assert adapter.call_grid((larger,), {"interpolate_pos_encoding": True}) == (1, 8, 10)


def test_grid_of_a_dynamic_timm_model() -> None:
    dynamic = adapted(models.timm_vit(dynamic_img_size=True))
    padded = adapted(models.timm_vit(dynamic_img_size=True, dynamic_img_pad=True))
    picture = torch.zeros(1, 3, 64, 80)
    assert dynamic.call_grid((picture,), {}) == (1, 8, 10)
    assert padded.call_grid((torch.zeros(1, 3, 65, 79),), {}) == (1, 9, 10)
    assert adapted(models.timm_vit()).call_grid((models.pixels(),), {}) == (1, 6, 6)


def test_grid_of_an_oblong_timm_model() -> None:
    assert adapted(models.timm_vit(img_size=(32, 64))).spec().grid == (1, 4, 8)


def test_grid_of_siglip2_is_read_from_the_call() -> None:
    adapter = adapted(models.siglip2_vision())
    inputs = models.siglip2_inputs(shape=(4, 9))
    assert adapter.call_grid((), inputs) == (1, 4, 9)
    assert adapter.call_grid(tuple(inputs.values()), {}) == (1, 4, 9)


def other_models() -> list[nn.Module]:
    import timm
    from transformers import Dinov2Backbone, Dinov2Config, ResNetConfig, ResNetModel

    tiny = ResNetConfig(embedding_size=4, hidden_sizes=[4, 4], depths=[1, 1])
    return [
        timm.create_model("resnet18"),
        timm.create_model("beit_base_patch16_224", depth=1, embed_dim=24, num_heads=2),
        ResNetModel(tiny),
        Dinov2Backbone(Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=2)),
        nn.Linear(2, 2),
        models.clip().text_model,
        models.llava_clip(),
    ]


def test_other_models_are_not_claimed() -> None:
    for model in other_models():
        assert not [adapter for adapter in ADAPTERS if adapter.fits(model)], type(model)


def test_subclasses_of_claimed_classes_are_claimed() -> None:
    from transformers import CLIPVisionModel

    class Mine(CLIPVisionModel):
        pass

    assert adapted(Mine(models.clip_vision().config)).name == "clip"


def test_adapters_register_through_their_hook() -> None:
    found = []
    register_adapters(found.append)
    assert [adapter.name for adapter in found] == [
        *("clip", "siglip", "siglip2-naflex", "internvl-vision", "qianfan-vision"),
        *("idefics3-vision", "dinov2", "dinov3", "qwen-vision", "ernie-vision", "pixtral-vision"),
        "paddleocr-vision",
        *("gemma4-vision", "video-llama-3-vision", "minicpm-vision", "kimi-vision"),
        *("hunyuan-vision", "minimax-vision", "cosmos3-vision", "muse-vision", "ovis2-vision"),
        *("janus-vision", "llama4-vision", "timm"),
    ]
