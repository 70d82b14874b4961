"""Every name inside timm's VisionTransformer that the adapter relies on.

Nothing here imports timm: models are read by attribute, classes by full name.
`tests/adapters/test_compat_timm.py` checks each name and signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune_adapters.shared.scaling import scaled
from tokenprune_adapters.shared.signatures import Relied

VIT = "timm.models.vision_transformer"
BLOCKS = (f"{VIT}.Block", f"{VIT}.ResPostBlock", f"{VIT}.ParallelThingsBlock")
PASSES = ("forward", "forward_features")
_INSTEAD = "forward_features"
WITHOUT_PLACE = {"forward_intermediates": _INSTEAD, "get_intermediate_layers": _INSTEAD}
"""Methods that give every depth's tokens in one array, and the one to call instead."""
ATTENTIONS = ("timm.layers.attention.Attention",)


@dataclass(frozen=True)
class Branch:
    """One attention of a block: what runs before it, itself, and what runs after it."""

    before: tuple[Any, ...]
    attention: Any
    after: tuple[Any, ...]


def relied_on(model: Any) -> list[Relied]:
    """The methods that the engine overrides, with their first arguments."""
    return [
        Relied(model, "forward", first=("x",)),
        Relied(model, "forward_features", first=("x",)),
        Relied(model, "pool", ("pool_type",), first=("x",)),
        *(Relied(block, "forward", first=("x",)) for block in model.blocks),
    ]


def branches(block: Any) -> list[Branch]:
    """The attention half of a supported block; its branches run side by side and are added."""
    kind = type(block).__name__
    if kind == "ParallelThingsBlock":
        return [Branch((s.norm,), s.attn, (s.ls, s.drop_path)) for s in block.attns]
    if kind == "ResPostBlock":
        return [Branch((), block.attn, (block.norm1, block.drop_path1))]
    return [Branch((block.norm1,), block.attn, (block.ls1, block.drop_path1))]


def feed_forward_chains(block: Any) -> list[Sequence[Any]]:
    """The MLP half of a supported block; its chains run side by side and are added."""
    kind = type(block).__name__
    if kind == "ParallelThingsBlock":
        return list(block.ffns)
    if kind == "ResPostBlock":
        return [(block.mlp, block.norm2, block.drop_path2)]
    return [(block.norm2, block.mlp, block.ls2, block.drop_path2)]


def run(chain: Sequence[Any], hidden: Tensor) -> Tensor:
    """Call the modules one after the other: `[B, T, D]` -> `[B, T, D]`."""
    for module in chain:
        hidden = module(hidden)
    return hidden


def added(outputs: Sequence[Tensor]) -> Tensor:
    """Sum of parallel outputs `[B, T, D]`, in the order and grouping of timm."""
    return outputs[0] if len(outputs) == 1 else torch.stack(list(outputs)).sum(dim=0)


def qkv(branch: Branch, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`[B, T, D]` -> query, key, value `[B, H, T, d]`, scaled so that 1/sqrt(d) is implied."""
    attention = branch.attention
    normed = run(branch.before, hidden)
    batch, count, _ = normed.shape
    split = attention.qkv(normed).reshape(batch, count, 3, attention.num_heads, -1)
    query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
    query, key = attention.q_norm(query), attention.k_norm(key)
    return scaled(query, float(attention.scale)), key, value


def project(branch: Branch, hidden: Tensor, attended: Tensor) -> Tensor:
    """Heads `[B, H, T, d]` -> the branch's contribution to `hidden` `[B, T, D]`."""
    attention = branch.attention
    together = attention.norm(attended.transpose(1, 2).flatten(2))
    gate = getattr(attention, "gate", None)  # not in older releases
    if gate is not None:
        together = together * gate(run(branch.before, hidden)).sigmoid()
    return run((attention.proj, attention.proj_drop, *branch.after), together)


def attention_dropout(block: Any) -> float:
    """Dropout on attention weights that is active now."""
    if not block.training:
        return 0.0
    return max(float(branch.attention.attn_drop.p) for branch in branches(block))


def default_grid(model: Any) -> tuple[int, int] | None:
    """Patch grid (h, w) of the image size that the model was made for."""
    size = model.patch_embed.grid_size
    return None if size is None else (int(size[0]), int(size[1]))


def grid_of(model: Any, height: int, width: int) -> tuple[int, int]:
    """Patch grid (h, w) of a picture of this size."""
    fixed = default_grid(model)
    if fixed is not None and not model.dynamic_img_size:
        return fixed
    rows, columns = model.patch_embed.dynamic_feat_size((height, width))
    return int(rows), int(columns)


def drops_patches(model: Any) -> bool:
    """Whether random patches are dropped before the blocks right now."""
    return bool(model.patch_drop.training and getattr(model.patch_drop, "prob", 0.0) > 0)


def recomputes(model: Any) -> bool:
    """Whether the backward pass would run blocks a second time."""
    return bool(model.grad_checkpointing) and torch.is_grad_enabled()


def mean_skip(model: Any) -> int:
    """Leading tokens that the model leaves out of its average."""
    return 0 if model.pool_include_prefix else int(model.num_prefix_tokens)


def averaging_norm(model: Any) -> nn.Module | None:
    """In an attention pool that averages its outputs: the module just before the average."""
    pool = model.attn_pool
    if type(pool).__name__ == "AttentionPoolPrr" and pool.pool == "avg":
        norm: nn.Module = pool.post_norm
        return norm
    return None


def foreign_forward(model: nn.Module) -> str | None:
    """Name of a subclass that replaces `forward` or `forward_features`, if there is one."""
    for cls in type(model).__mro__:
        if f"{cls.__module__}.{cls.__qualname__}" == f"{VIT}.VisionTransformer":
            return None
        if "forward" in vars(cls) or "forward_features" in vars(cls):
            return cls.__name__
    return None
