"""What a family can't serve is refused by name, and nothing is left on the model."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers.family_table import ADAPTERS

import tokenprune
from tests.families.calls import case_of, logits
from tests.families.models.common import HEADS, WIDTH, built, text
from tests.families.plans import decoder, plan, staged
from tests.families.test_steps import APART
from tokenprune.errors import (
    BudgetError,
    LayerError,
    SignalError,
    UnsupportedCallError,
    UnsupportedModelError,
)

(Mistral3Adapter,) = (adapter for adapter in ADAPTERS if adapter.name == "mistral3")


def refused(name: str, wanted: dict[str, Any], error: type[Exception], match: str) -> None:
    model = case_of(name).build()
    before = [dict(vars(module)) for module in model.modules()]
    with pytest.raises(error, match=match):
        tokenprune.attach(model, wanted)
    for module, held in zip(model.modules(), before, strict=True):
        assert vars(module).keys() == held.keys()
        assert vars(module).get("forward") is held.get("forward")


class Unfollowed(Mistral3Adapter):  # type: ignore[misc, valid-type]
    """A family whose adapter names no tower."""

    family = replace(
        Mistral3Adapter.family,
        pictures={
            kind: replace(one, tower=None) for kind, one in Mistral3Adapter.family.pictures.items()
        },
    )


@pytest.mark.parametrize(
    ("at", "strategy", "error", "match"),
    [
        ("encoder", "tome", UnsupportedModelError, "aren't followed through the tower"),
        ("pre_llm", "fopru", SignalError, "fopru"),
    ],
)
def test_stages_that_need_a_tower_which_is_not_followed(
    at: str, strategy: str, error: type[Exception], match: str
) -> None:
    model = case_of("mistral3").build()
    with pytest.raises(error, match=match):
        tokenprune.attach(
            model, plan({"strategy": strategy, "at": at, "keep": 0.5}), adapter=Unfollowed
        )
    assert not any("forward" in module.__dict__ for module in model.modules())


@pytest.mark.parametrize("name", APART)
def test_compact_positions_where_three_axes_are_counted(name: str) -> None:
    wanted = plan(decoder(name, 0.5), positions="compact")
    refused(name, wanted, UnsupportedModelError, "time, height and width apart")


@pytest.mark.parametrize("name", ["gemma3", "gemma4", "aya_vision", "llama4", "exaone4_5"])
def test_compact_positions_where_layers_rotate_differently(name: str) -> None:
    wanted = plan(decoder(name, 0.5), positions="compact")
    refused(name, wanted, UnsupportedModelError, "rotary embeddings of several kinds")


@pytest.mark.parametrize("name", ["video_llava", "vipllava", "internvl"])
def test_class_tokens_that_no_projector_has_seen(name: str) -> None:
    params = {"order": "paper", "class_token": True}
    stage = {"at": "pre_llm", "strategy": "visionzip", "keep": 0.5, "params": params}
    refused(name, plan(stage, positions="compact"), SignalError, "prefix_features")


def test_frames_of_a_family_that_knows_clips() -> None:
    wanted = plan(decoder("qwen2_vl", 0.5), images="frames")
    refused("qwen2_vl", wanted, UnsupportedModelError, "which frames are one video")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("qwen3_5", "has linear attention"),
        ("qwen3_5_moe", "has linear attention"),
        ("lfm2_vl", "is a short convolution"),
    ],
)
def test_layers_without_keys(name: str, told: str) -> None:
    wanted = plan({**decoder(name, 0.5), "layer": 2})
    refused(name, wanted, LayerError, f"layer 2 of this LLM {told}")


@pytest.mark.parametrize("name", ["idefics3", "smolvlm", "idefics2"])
def test_features_that_are_passed_instead_of_pictures(name: str) -> None:
    """Of an earlier call, by the name that releases before 5.24 have for them."""
    case = case_of(name)
    model, call = case.build(), case.inputs("one")
    shown = {key: value for key, value in call.items() if key.startswith("pixel")}
    with torch.no_grad():
        made = model.model.get_image_features(**shown).pooler_output
    rest = {key: value for key, value in call.items() if key not in shown}
    with (
        tokenprune.attach(model, staged(name, "pre_llm", 0.5)),
        pytest.raises(UnsupportedCallError, match="features come without the pictures"),
    ):
        model(**rest, image_hidden_states=torch.cat(list(made)))


@pytest.mark.parametrize("entry", ["forward", "generate"])
@pytest.mark.parametrize("name", ["idefics2", "idefics3", "smolvlm", "llava"])
def test_features_that_are_passed_as_a_bare_tensor(name: str, entry: str) -> None:
    """Releases from 5.24 on warn of them and take them as those of images."""
    case = case_of(name)
    model, call = case.build(), case.inputs("one")
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        pytest.skip("this version of transformers takes no features in place of pictures")
    rest = {key: value for key, value in call.items() if not key.startswith("pixel")}
    with (
        tokenprune.attach(model, staged(name, "pre_llm", 0.5)),
        pytest.raises(UnsupportedCallError, match="encoded before this call don't say"),
    ):
        getattr(model, entry)(**rest, mm_encoder_outputs=torch.zeros(1, 4, WIDTH))


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_layers_that_share_keys(layer: int) -> None:
    wanted = plan({**decoder("gemma4-shared", 0.5), "layer": layer})
    refused("gemma4-shared", wanted, LayerError, "layers 2 to 3 of this LLM read the keys")


@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_5_moe"])
def test_attention_of_a_layer_with_linear_attention(name: str) -> None:
    wanted = plan({**decoder(name, 0.5), "strategy": "fastv"})
    refused(name, wanted, SignalError, "layer 2, which has linear attention")


@pytest.mark.parametrize("setting", ["attention_chunk_size", "floor_scale"])
def test_chunks_and_temperatures_that_count_places(setting: str) -> None:
    """Up to their length they do nothing; decoding steps count, too."""
    case = case_of("llama4")
    config, call = case.config(), case.inputs("one", "none")
    length = call["input_ids"].shape[1]
    limit = length + 1 + (setting == "floor_scale")
    setattr(config.text_config, setting, limit)
    model = built(type(case.build()), config, torch.float32, "sdpa")
    with tokenprune.attach(model, staged("llama4", "both", 0.5)):
        model.generate(**call, max_new_tokens=2, min_new_tokens=2, do_sample=False)
        with pytest.raises(UnsupportedCallError, match=f"{length + 2} tokens.* chunk of"):
            model.generate(**call, max_new_tokens=4, min_new_tokens=4, do_sample=False)


@pytest.mark.parametrize("name", ["qwen3_vl_moe", "qwen3_omni_moe", "llama4"])
def test_router_logits(name: str) -> None:
    case = case_of(name)
    model, call = case.build(), case.inputs("one")
    with (
        tokenprune.attach(model, staged(name, "decoder", 0.5)),
        pytest.raises(UnsupportedCallError, match="router logits"),
    ):
        model(**call, output_router_logits=True)


def test_a_budget_that_a_small_picture_has_not() -> None:
    case = case_of("qwen2_5_vl")
    model = case.build()
    with (
        tokenprune.attach(model, staged("qwen2_5_vl", "decoder", 12)) as handle,
        pytest.raises(BudgetError, match="12"),
    ):
        logits(model, case.inputs("one"))  # its picture has 8 units
    handle.detach()


def test_layers_that_compute_with_position_ids() -> None:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Ministral3Config"):
        pytest.skip(f"transformers {transformers.__version__} has no Ministral 3")
    case = case_of("mistral3")
    config = case.config()
    scaled = {"rope_type": "default", "rope_theta": 1e4, "llama_4_scaling_beta": 0.1}
    config.text_config = transformers.Ministral3Config(
        **text("mistral", head_dim=WIDTH // HEADS, sliding_window=None),
        rope_parameters={**scaled, "original_max_position_embeddings": 64},
    )
    model = built(transformers.Mistral3ForConditionalGeneration, config, torch.float32, "sdpa")
    with pytest.raises(UnsupportedModelError, match="Ministral3DecoderLayer compute with position"):
        tokenprune.attach(model, staged("mistral3", "pre_llm", 0.5))


@pytest.mark.parametrize(
    ("strategy", "at", "why"),
    [("fopru", "pre_llm", "runs past what"), ("tome", "encoder", "has no place")],
)
def test_a_method_of_a_wrapped_tower_that_runs_past_the_plan(
    strategy: str, at: str, why: str
) -> None:
    """transformers' wrapper calls it where its config asks for the states of all depths."""
    case = case_of("perception_lm")
    model = case.create()
    model.model.vision_tower.config.output_hidden_states = True
    stage = {"strategy": strategy, "at": at, "keep": 0.5}
    with (
        tokenprune.attach(model, plan(stage)),
        pytest.raises(UnsupportedCallError, match=f"'forward_intermediates' {why}"),
    ):
        logits(model, case.inputs("one"))
