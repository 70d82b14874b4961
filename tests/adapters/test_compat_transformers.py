"""The names inside transformers that `transformers.vit_names` relies on exist as relied on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers import vit_names as compat
from torch import nn

from tests import models

BUILDERS = [models.clip_vision, models.siglip_vision, models.siglip2_vision]


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize("build", BUILDERS)
def test_blocks_stand_in_encoder_layers(build: Callable[[], Any]) -> None:
    vision = build()
    assert isinstance(vision.encoder.layers, nn.ModuleList)
    assert compat.blocks(vision) == list(vision.encoder.layers)


@pytest.mark.parametrize("build", BUILDERS)
def test_block_parts(build: Callable[[], Any]) -> None:
    block = build().encoder.layers[0]
    names = ["layer_norm1", "layer_norm2", "mlp", "self_attn"]
    assert sorted(name for name, _ in block.named_children()) == names
    attention = compat.attention_of(block)
    names = ["k_proj", "out_proj", "q_proj", "v_proj"]
    assert sorted(name for name, _ in attention.named_children()) == names
    assert attention.head_dim == models.WIDTH // models.HEADS
    assert attention.scale == attention.head_dim**-0.5
    assert isinstance(attention.dropout, float)
    assert attention.is_causal is False


@pytest.mark.parametrize("build", BUILDERS)
def test_blocks_are_called_with_hidden_states_and_a_mask(build: Callable[[], Any]) -> None:
    assert parameters(type(build().encoder.layers[0]).forward)[:3] == [
        "self",
        "hidden_states",
        "attention_mask",
    ]


@pytest.mark.parametrize("build", [models.clip_vision, models.siglip_vision])
def test_pictures_are_the_first_argument(build: Callable[[], Any]) -> None:
    assert parameters(build().forward)[0] == "pixel_values"


def test_siglip2_arguments_stand_in_the_known_order() -> None:
    model = models.siglip2_vision()
    assert tuple(parameters(model.forward)[:3]) == compat.VISION_ARGUMENTS
    assert parameters(model.head.forward) == ["hidden_state", "attention_mask"]


def test_configs_say_the_grid() -> None:
    for build in BUILDERS:
        assert compat.default_side(build()) == models.SIDE
        assert compat.patch_size(build()) == models.PATCH
    assert compat.takes_patches(models.siglip2_vision())
    assert not compat.takes_patches(models.siglip_vision())
    assert not compat.takes_patches(models.clip_vision())


@pytest.mark.parametrize(
    "build",
    [
        models.clip,
        models.siglip,
        lambda: models.clip(classifier=True),
        lambda: models.siglip2_vision(classifier=True),
        lambda: models.clip_vision(projected=True),
    ],
)
def test_wrappers_keep_a_vision_model(build: Callable[[], Any]) -> None:
    model = build()
    found = compat.vision_module(model)
    assert found is model.vision_model or found is model.vision_model.vision_model
    assert hasattr(found, "encoder")
    assert hasattr(found, "config")


@pytest.mark.parametrize("build", [models.clip, models.siglip, models.siglip2])
def test_dual_encoders_give_features_of_each_tower(build: Callable[[], Any]) -> None:
    model = build()
    ids = torch.ones(2, compat.text_length(model), dtype=torch.int64)
    patches = compat.takes_patches(compat.vision_module(model))
    inputs = models.siglip2_inputs() if patches else {"pixel_values": models.pixels()}
    out = model(input_ids=ids, **inputs)
    for features, expected in (
        (compat.image_features(model, inputs), out.image_embeds),
        (compat.text_features(model, {"input_ids": ids}), out.text_embeds),
    ):
        # the model's own output is of unit length, the features aren't
        torch.testing.assert_close(torch.nn.functional.normalize(features, dim=-1), expected)
    assert compat.text_length(model) == model.config.text_config.max_position_embeddings == 16
    assert compat.pools(model)


def test_siglips_head_can_be_left_out() -> None:
    assert not compat.pools(models.siglip(vision_use_head=False))


def test_a_vision_module_wrapped_twice_is_found() -> None:
    inner = models.clip_vision()
    middle, outer = nn.Module(), nn.Module()
    middle.vision_model, outer.vision_model = inner, middle
    assert compat.vision_module(outer) is inner


def test_a_call_loses_its_mask_only() -> None:
    args, kwargs = compat.without_mask((1, 2, 3), {"other": 4})
    assert args == ()
    assert kwargs == {
        "pixel_values": 1,
        "pixel_attention_mask": None,
        "spatial_shapes": 3,
        "other": 4,
    }
