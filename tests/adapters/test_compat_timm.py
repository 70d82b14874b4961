"""The names inside timm that `timm.vit_names` relies on exist as relied on."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest
from tokenprune_adapters.timm import vit_names as compat
from torch import nn

from tests import models

vit = pytest.importorskip("timm.models.vision_transformer")


def resolve(full_name: str) -> Any:
    module, name = full_name.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("name", [*compat.BLOCKS, *compat.ATTENTIONS])
def test_classes_are_defined_where_their_names_say(name: str) -> None:
    cls = resolve(name)
    assert f"{cls.__module__}.{cls.__qualname__}" == name


def test_attention_parts() -> None:
    attention = models.timm_vit(qk_norm=True, scale_attn_norm=True).blocks[0].attn
    assert {"qkv", "q_norm", "k_norm", "attn_drop", "norm", "proj", "proj_drop"} <= {
        name for name, _ in attention.named_children()
    }
    assert attention.num_heads == models.HEADS
    assert attention.scale == (models.WIDTH // models.HEADS) ** -0.5
    assert attention.attn_drop.p == 0.0
    extra = {name for name, _ in attention.named_parameters(recurse=False)}
    assert extra == set()  # a parameter of its own would be something the halves don't know


@pytest.mark.parametrize(
    ("block", "parts"),
    [
        ("Block", {"norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2"}),
        ("ResPostBlock", {"norm1", "attn", "drop_path1", "norm2", "mlp", "drop_path2"}),
        ("ParallelThingsBlock", {"attns", "ffns"}),
    ],
)
def test_block_parts(block: Any, parts: set[str]) -> None:
    built = models.timm_vit(block_fn=getattr(vit, block)).blocks[0]
    assert {name for name, _ in built.named_children()} == parts
    assert next(iter(inspect.signature(built.forward).parameters)) == "x"


def test_parallel_branch_parts() -> None:
    block = models.timm_vit(block_fn=vit.ParallelThingsBlock).blocks[0]
    for branch in block.attns:
        assert [name for name, _ in branch.named_children()] == ["norm", "attn", "ls", "drop_path"]
    for chain in block.ffns:
        assert [name for name, _ in chain.named_children()] == ["norm", "mlp", "ls", "drop_path"]


def test_model_attributes() -> None:
    model = models.timm_vit(reg_tokens=2)
    assert model.num_prefix_tokens == 3
    assert model.has_class_token is True
    assert model.pool_include_prefix is False
    assert model.dynamic_img_size is False
    assert model.grad_checkpointing is False
    assert model.attn_pool is None
    assert model.global_pool == "token"
    assert isinstance(model.patch_drop, nn.Module)
    assert model.patch_embed.grid_size == (models.SIDE, models.SIDE)
    assert model.patch_embed.dynamic_feat_size((64, 80)) == (8, 10)
    assert list(inspect.signature(model.pool).parameters) == ["x", "pool_type"]
    assert list(inspect.signature(model.forward).parameters)[:2] == ["x", "attn_mask"]


def test_patch_dropout_tells_its_probability() -> None:
    assert models.timm_vit(patch_drop_rate=0.5).patch_drop.prob == 0.5


def test_own_subclasses_keep_the_forward() -> None:
    assert compat.foreign_forward(models.timm_vit()) is None
    assert compat.foreign_forward(models.timm_distilled()) is None


def test_head_pools_through_the_method_that_is_overridden() -> None:
    model = models.timm_vit(global_pool="avg")
    calls = []
    own = model.pool
    model.__dict__["pool"] = lambda x, **kwargs: (calls.append(1), own(x, **kwargs))[1]
    model(models.pixels(1))
    assert calls == [1]
