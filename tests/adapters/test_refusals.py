"""What isn't supported is refused by name, with what is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenprune_adapters.timm import vit_names as compat
from torch import Tensor, nn

from tests import models, towers
from tests.adapters.variants import adapted
from tests.contract.cases import ENCODER_STAGES, attached
from tokenprune.errors import UnsupportedCallError, UnsupportedModelError

vit = pytest.importorskip("timm.models.vision_transformer")


def parallel() -> Any:
    return models.timm_vit(block_fn=vit.ParallelScalingBlock)


def test_a_parallel_block_is_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        adapted(parallel())
    text = str(caught.value)
    assert "VisionTransformer, block 0" in text
    assert "'ParallelScalingBlock'" in text
    assert "its MLP runs beside its attention" in text
    assert "Supported here: Block, ResPostBlock, ParallelThingsBlock, EvaBlock" in text


@pytest.mark.skipif(not hasattr(vit, "DiffParallelScalingBlock"), reason="older timm")
def test_differential_blocks_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="'DiffParallelScalingBlock'"):
        adapted(models.timm_vit(block_fn=vit.DiffParallelScalingBlock))
    with pytest.raises(UnsupportedModelError, match=r"'DiffAttention'.*two softmaxes"):
        adapted(models.timm_vit(attn_layer="diff"))


def test_every_block_that_timm_defines_for_this_family_is_decided() -> None:
    """A block class that a new timm adds has to be looked at, not to slip through."""
    known = {"Block", "ResPostBlock", "ParallelThingsBlock"}
    known |= {"ParallelScalingBlock", "DiffParallelScalingBlock"}
    defined = {
        name
        for name, value in vars(vit).items()
        if isinstance(value, type)
        and issubclass(value, nn.Module)
        and name.endswith("Block")
        and value.__module__ == vit.__name__
    }
    assert defined <= known


def test_every_block_of_eva_is_decided() -> None:
    from timm.models import eva

    defined = {name for name in vars(eva) if name.startswith("EvaBlock")}
    assert {f"{eva.__name__}.{name}" for name in defined} == set(compat.EVA_BLOCKS)


def test_a_changed_attention_is_refused() -> None:
    class Mine(type(models.timm_vit().blocks[0].attn)):
        pass

    model = models.timm_vit()
    model.blocks[1].attn = Mine(models.WIDTH, models.HEADS)
    with pytest.raises(UnsupportedModelError, match=r"block 1, attention.*'Mine'"):
        adapted(model)


def test_a_subclass_with_its_own_forward_is_refused() -> None:
    class Mine(vit.VisionTransformer):
        def forward_features(self, x: Tensor) -> None:
            return super().forward_features(x)

    with pytest.raises(UnsupportedModelError, match="'Mine' replaces the forward"):
        adapted(Mine(img_size=16, patch_size=8, embed_dim=8, num_heads=2, depth=1))


def test_a_foreign_block_in_clip_is_refused() -> None:
    from transformers.models.clip.modeling_clip import CLIPEncoderLayer

    class Mine(CLIPEncoderLayer):
        pass

    model = models.clip_vision()
    model.encoder.layers[3] = Mine(model.config)
    with pytest.raises(UnsupportedModelError, match=r"CLIPVisionModel, block 3.*CLIPEncoderLayer"):
        adapted(model)


def test_a_foreign_attention_in_siglip_is_refused() -> None:
    model = models.siglip_vision()
    model.encoder.layers[0].self_attn = nn.Identity()
    with pytest.raises(UnsupportedModelError, match=r"block 0, attention.*'Identity'"):
        adapted(model)


@pytest.mark.parametrize(
    ("kwargs", "problem"),
    [({"attn_mask": torch.ones(1)}, "an attention mask"), ({"is_causal": True}, "causal")],
)
def test_masks_in_a_timm_call_are_refused(kwargs: dict[str, Any], problem: str) -> None:
    with pytest.raises(UnsupportedCallError, match=problem):
        adapted(models.timm_vit()).call_grid((models.pixels(),), kwargs)


def test_an_attention_mask_in_a_clip_call_is_refused() -> None:
    call = {"pixel_values": models.pixels(), "attention_mask": torch.zeros(2, 1, 37, 37)}
    with pytest.raises(UnsupportedCallError, match="attention mask"):
        adapted(models.clip_vision()).call_grid((), call)


def test_patch_dropping_is_refused_in_training_only() -> None:
    model = models.timm_vit(patch_drop_rate=0.5)
    adapter = adapted(model)
    assert adapter.call_grid((models.pixels(),), {}) == (1, 6, 6)
    model.train()
    with pytest.raises(UnsupportedCallError, match="random patch dropping"):
        adapter.call_grid((models.pixels(),), {})


def test_gradient_checkpointing_is_refused_where_it_would_recompute() -> None:
    model = models.timm_vit()
    model.set_grad_checkpointing(True)
    adapter = adapted(model)
    with torch.no_grad():
        assert adapter.call_grid((models.pixels(),), {}) == (1, 6, 6)
    with pytest.raises(UnsupportedCallError, match="gradient checkpointing"):
        adapter.call_grid((models.pixels(),), {})


def test_siglip2_refuses_padding_and_mixed_shapes() -> None:
    adapter = adapted(models.siglip2_vision())
    with pytest.raises(UnsupportedCallError, match="different shapes or padding"):
        adapter.call_grid((), models.siglip2_inputs(shape=(5, 6), padding=6))
    mixed = models.siglip2_inputs(shape=(4, 9))
    mixed["spatial_shapes"] = torch.tensor([[4, 9], [6, 6]])
    with pytest.raises(UnsupportedCallError, match="different shapes or padding"):
        adapter.call_grid((), mixed)
    masked = models.siglip2_inputs()
    masked["pixel_attention_mask"][0, -1] = 0
    with pytest.raises(UnsupportedCallError, match="different shapes or padding"):
        adapter.call_grid((), masked)


def test_patches_that_a_mask_hides_are_refused_in_idefics3() -> None:
    adapter = adapted(towers.idefics3())
    assert adapter.call_grid((), towers.idefics3_inputs()) == (1, 6, 6)
    (met,) = adapter.demands((), towers.idefics3_inputs())
    assert bool(met.fulfilled)
    padded = towers.idefics3_inputs(hidden=1)
    for args, kwargs in (((), padded), (tuple(padded.values()), {})):
        (broken,) = adapter.demands(args, kwargs)
        assert not bool(broken.fulfilled)
    model = towers.idefics3()
    refused = pytest.raises(UnsupportedCallError, match="'patch_attention_mask' hides patches")
    with attached(model, ENCODER_STAGES["tome"]), refused:
        model(**padded)


@pytest.mark.parametrize("build", [towers.internvl, towers.dinov2, towers.dinov3])
def test_attention_masks_are_refused(build: Any) -> None:
    call = {"pixel_values": models.pixels(), "attention_mask": torch.ones(2, 37)}
    with pytest.raises(UnsupportedCallError, match="attention mask"):
        adapted(build()).call_grid((), call)


@pytest.mark.parametrize("build", [towers.internvl, towers.dinov2])
def test_a_foreign_attention_is_refused_in_towers(build: Any) -> None:
    model = build()
    block = model.encoder.layer[1]
    mine = type(f"My{type(block.attention).__name__}", (type(block.attention),), {})
    block.attention.__class__ = mine
    with pytest.raises(UnsupportedModelError, match=r"block 1, attention.*'My\w+Attention'"):
        adapted(model)
