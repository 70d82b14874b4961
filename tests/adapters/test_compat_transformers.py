"""The names inside transformers that the encoder families rely on exist as relied on."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers import vit_names as compat
from tokenprune_adapters.transformers.clip import ClipAdapter
from tokenprune_adapters.transformers.dino import Dinov2Adapter, Dinov3Adapter
from tokenprune_adapters.transformers.idefics3_vision import Idefics3VisionAdapter
from tokenprune_adapters.transformers.internvl_vision import (
    InternVLVisionAdapter,
    QianfanVisionAdapter,
)
from tokenprune_adapters.transformers.janus_vision import JanusVisionAdapter
from tokenprune_adapters.transformers.ovis2_vision import Ovis2VisionAdapter
from tokenprune_adapters.transformers.siglip import SiglipAdapter
from tokenprune_adapters.transformers.vit import HfVitAdapter
from tokenprune_adapters.transformers.vit_family_names import DINOV3, IDEFICS3, PATCHES, ROTARY
from torch import nn

from tests import models, towers
from tests.adapters.variants import adapted
from tokenprune.errors import UnsupportedModelError

BUILDERS: dict[str, Callable[..., Any]] = {
    "clip": models.clip_vision,
    "siglip": models.siglip_vision,
    "siglip2": models.siglip2_vision,
    "internvl": towers.internvl,
    "internvl-plain": partial(towers.internvl, use_qk_norm=False, projection_dropout=0.1),
    "qianfan": partial(towers.internvl, kind="QianfanOCR"),
    "idefics3": towers.idefics3,
    "smolvlm": partial(towers.idefics3, kind="SmolVLM"),
    "ovis2": towers.ovis2,
    "janus": towers.janus,
    "dinov2": partial(towers.dinov2, drop_path_rate=0.1),
    "dinov2-registers": partial(towers.dinov2, registers=3),
    "dinov3": towers.dinov3,
}
ADAPTERS = (
    ClipAdapter,
    SiglipAdapter,
    InternVLVisionAdapter,
    QianfanVisionAdapter,
    Idefics3VisionAdapter,
    Ovis2VisionAdapter,
    JanusVisionAdapter,
    Dinov2Adapter,
    Dinov3Adapter,
)


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def names_of(vision: nn.Module) -> Any:
    adapter = adapted(vision)
    assert isinstance(adapter, HfVitAdapter)
    return adapter.names


def inside(module: nn.Module) -> set[str]:
    """Submodules and parameters that stand directly in a module."""
    own = {name for name, _ in module.named_parameters(recurse=False)}
    return own | {name for name, _ in module.named_children()}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_block_has_the_parts_that_are_read_and_no_others(name: str) -> None:
    """A part that the halves don't know would be left out of them in silence."""
    vision = BUILDERS[name]()
    names = names_of(vision)
    for block in compat.blocks(vision, names):
        read = compat.block_names(block, name, names)
        paths = [part.split(".") for part in read.parts()]
        wholes = {"": block, **{".".join(p[:i]): None for p in paths for i in range(1, len(p))}}
        for whole in wholes:
            module = block.get_submodule(whole)
            depth = len(whole.split(".")) if whole else 0
            below = {p[depth] for p in paths if ".".join(p[:depth]) == whole and len(p) > depth}
            floats = {part for part in below if isinstance(getattr(module, part), int | float)}
            identities = {
                part for part in inside(module) if isinstance(getattr(module, part), nn.Identity)
            }
            assert below - floats - identities == inside(module) - identities, (name, whole)


@pytest.mark.parametrize("name", BUILDERS)
def test_attention_is_plain_softmax_attention(name: str) -> None:
    vision = BUILDERS[name]()
    names = names_of(vision)
    block = compat.blocks(vision, names)[0]
    read = compat.block_names(block, name, names)
    attention: Any = compat.attentions(block, names)[-1]
    assert getattr(attention, read.head_width) == models.WIDTH // models.HEADS
    assert getattr(attention, read.scale) == (models.WIDTH // models.HEADS) ** -0.5
    assert isinstance(getattr(attention, read.dropout), float)
    assert attention.is_causal is False


@pytest.mark.parametrize("name", BUILDERS)
def test_signatures_are_those_relied_on(name: str) -> None:
    vision = BUILDERS[name]()
    relied = compat.relied_on(vision, names_of(vision))
    assert len(relied) == 1 + models.DEPTH
    assert all(one.missing() is None for one in relied)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_claimed_classes_are_defined_where_their_names_say(adapter: type[HfVitAdapter]) -> None:
    wanted = (*adapter.claims, *adapter.block_classes, *adapter.averaging)
    for full in wanted:
        module, name = full.rsplit(".", 1)
        cls = getattr(importlib.import_module(module), name, None)
        if cls is None:  # some releases have a vision model inside the vision model, some don't
            assert name.endswith("VisionTransformer"), full
            continue
        assert f"{cls.__module__}.{cls.__qualname__}" == full


def test_siglip2_arguments_stand_in_the_known_order() -> None:
    model = models.siglip2_vision()
    assert tuple(parameters(model.forward)[:3]) == PATCHES
    assert parameters(model.head.forward) == ["hidden_state", "attention_mask"]


def test_configs_say_the_grid() -> None:
    for build in BUILDERS.values():
        assert compat.default_grid(build()) == (models.SIDE, models.SIDE)
        assert compat.patch_size(build()) == (models.PATCH, models.PATCH)
        assert compat.takes_patches(build()) == (build is models.siglip2_vision)
    assert compat.default_grid(towers.internvl(image_size=[48, 96])) == (6, 12)


@torch.no_grad()
def test_dinov3_hands_the_rotary_rows_of_the_patches_to_every_block() -> None:
    model, seen = towers.dinov3(), []
    for block in compat.blocks(model, DINOV3):
        block.register_forward_pre_hook(
            lambda block, args, kwargs: seen.append((len(args), kwargs[ROTARY])), with_kwargs=True
        )
    model(models.pixels())
    assert [count for count, _ in seen] == [1] * models.DEPTH
    for _, rows in seen:
        assert [part.shape for part in rows] == [(models.PATCHES, models.WIDTH // models.HEADS)] * 2
        assert all(map(torch.equal, rows, towers.dinov3_rotary(model)))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["Idefics3", "SmolVLM"])
def test_idefics3_hands_the_mask_to_every_block_by_position(kind: str) -> None:
    model, seen = towers.idefics3("eager", kind=kind), []
    for block in compat.blocks(model, IDEFICS3):
        block.register_forward_pre_hook(lambda block, args: seen.append(args[1]))
    model(**towers.idefics3_inputs())
    assert len(seen) == models.DEPTH
    assert all(mask is None or not mask.any() for mask in seen)


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


def test_a_vision_module_wrapped_twice_is_found() -> None:
    inner = models.clip_vision()
    middle, outer = nn.Module(), nn.Module()
    middle.vision_model, outer.vision_model = inner, middle
    assert compat.vision_module(outer) is inner


def test_a_model_without_blocks_is_refused_by_what_it_lacks() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'Linear' has no 'encoder\.layers'"):
        compat.vision_module(nn.Linear(2, 2))


def test_a_block_without_one_of_its_parts_is_refused_by_name() -> None:
    model = towers.dinov3()
    del model.model.layer[2].layer_scale2
    with pytest.raises(
        UnsupportedModelError, match=r"block 2.*'DINOv3ViTLayer' has no 'layer_scale2'"
    ):
        adapted(model)


@pytest.mark.parametrize("name", ["pixel_values", "attention_mask"])
def test_arguments_are_found_by_position_and_by_name(name: str) -> None:
    order = compat.argument_names(towers.dinov2())
    if name not in order:
        pytest.skip(f"DINOv2 of this release takes no {name} by position")
    args = tuple(range(len(order)))
    assert compat.argument(order, name, args, {}) == order.index(name)
    assert compat.argument(order, name, (), {name: 7}) == 7
    assert compat.argument(order, name, (), {}) is None
