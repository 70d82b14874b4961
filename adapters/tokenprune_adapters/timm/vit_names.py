"""Every name inside timm's VisionTransformer and Eva that the adapter relies on.

Nothing here imports timm: models are read by attribute, classes by full name.
`tests/adapters/test_compat_timm.py` checks each name and signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from tokenprune_adapters.shared.scaling import scaled
from tokenprune_adapters.shared.signatures import Relied
from tokenprune_adapters.timm.parts import Parts

VIT = "timm.models.vision_transformer"
EVA = "timm.models.eva"
MODELS = (f"{VIT}.VisionTransformer", f"{EVA}.Eva")
"""Classes whose forward is known; subclasses that keep it are too."""
WRAPPERS = tuple(
    f"transformers.models.timm_wrapper.modeling_timm_wrapper.TimmWrapper{what}"
    for what in ("Model", "ForImageClassification")
)
"""Models of transformers around one of timm."""
EVA_BLOCKS = (f"{EVA}.EvaBlock", f"{EVA}.EvaBlockPostNorm")
"""Blocks that may be given a rotary embedding."""
BLOCKS = (f"{VIT}.Block", f"{VIT}.ResPostBlock", f"{VIT}.ParallelThingsBlock", *EVA_BLOCKS)
ROTARY = "rope"
"""Argument of such a block: sines and cosines side by side, `[N, 2 d]`, or `[H, N, 2 d]`."""
PASSES = ("forward", "forward_features")
_INSTEAD = "forward_features"
WITHOUT_PLACE = ("forward_intermediates", "get_intermediate_layers")
"""Methods that give every depth's tokens in one array."""
ATTENTIONS = (
    "timm.layers.attention.Attention",
    "timm.layers.attention.AttentionRope",
    f"{EVA}.EvaAttention",
)


class Branch(NamedTuple):
    """One attention of a block: what runs before it, itself, and what runs after it."""

    before: tuple[Any, ...]
    attention: Any
    after: tuple[Any, ...]


def unwrapped(model: Any) -> Any:
    """The model of timm, which transformers may have put into a wrapper."""
    kind = type(model)
    wraps = f"{kind.__module__}.{kind.__qualname__}" in WRAPPERS
    return model.timm_model if wraps else model


def without_place(model: Any) -> dict[str, str]:
    """Those of `WITHOUT_PLACE` that a model has, and the one to call instead."""
    return {name: _INSTEAD for name in WITHOUT_PLACE if hasattr(model, name)}


def relied_on(model: Any) -> list[Relied]:
    """The methods that the engine overrides, with their first arguments."""
    rotary = (ROTARY,) if turns(model) else ()
    return [
        Relied(model, "forward", first=("x",)),
        Relied(model, "forward_features", first=("x",)),
        Relied(model, "pool", ("pool_type",), first=("x",)),
        *(Relied(block, "forward", rotary, first=("x",)) for block in model.blocks),
    ]


def branches(block: Any) -> list[Branch]:
    """The attention half of a supported block; its branches run side by side and are added."""
    kind, parts = type(block).__name__, _parts(block)
    if kind == "Block":
        after = parts["ls1"], parts["drop_path1"]
        return [Branch((parts["norm1"],), parts["attn"], after)]
    if kind == "ParallelThingsBlock":
        return [Branch((s.norm,), s.attn, (s.ls, s.drop_path)) for s in block.attns]
    if kind in ("ResPostBlock", "EvaBlockPostNorm"):
        return [Branch((), block.attn, (block.norm1, block.drop_path1))]
    return [Branch((block.norm1,), block.attn, (block.gamma_1, block.drop_path1))]


def feed_forward_chains(block: Any) -> list[tuple[Any, ...]]:
    """The MLP half of a supported block; its chains run side by side and are added."""
    kind, parts = type(block).__name__, _parts(block)
    if kind == "Block":
        return [(parts["norm2"], parts["mlp"], parts["ls2"], parts["drop_path2"])]
    if kind == "ParallelThingsBlock":
        return [tuple(chain) for chain in block.ffns]
    if kind in ("ResPostBlock", "EvaBlockPostNorm"):
        return [(block.mlp, block.norm2, block.drop_path2)]
    return [(block.norm2, block.mlp, block.gamma_2, block.drop_path2)]


def _parts(module: Any) -> dict[str, Any]:
    """A module's modules by name; as attributes they are found only after a look-up in vain."""
    parts: dict[str, Any] = module._modules
    return parts


def added(outputs: Sequence[Tensor]) -> Tensor:
    """Sum of parallel outputs `[B, T, D]`, in the order and grouping of timm."""
    return torch.stack(list(outputs)).sum(dim=0)


def qkv(branch: Branch, hidden: Tensor, run: Parts) -> tuple[Tensor, Tensor, Tensor]:
    """`[B, T, D]` -> query, key, value `[B, H, T, d]`, scaled so that 1/sqrt(d) is implied."""
    attention, parts = branch.attention, _parts(branch.attention)
    query, key, value = _projected(branch, hidden, run)
    norms = parts["q_norm"], parts["k_norm"]
    if not run.idle(norms):
        query, key = run(norms[:1], query), run(norms[1:], key)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # several heads of queries share one of keys and values
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    return scaled(query, float(attention.scale)), key, value


def _projected(branch: Branch, hidden: Tensor, run: Parts) -> tuple[Tensor, Tensor, Tensor]:
    """`[B, T, D]` -> query, key, value `[B, H, T, d]`, by one projection or by three."""
    attention, parts = branch.attention, _parts(branch.attention)
    # the batch may be empty, of which view and reshape can't tell a width
    heads = attention.num_heads
    if parts.get("qkv") is None:
        normed = run(branch.before, hidden)
        # unflatten has no types
        rows: list[Any] = [run((parts[name],), normed) for name in ("q_proj", "k_proj", "v_proj")]
        query = rows[0].unflatten(-1, (heads, -1))
        key, value = (row.unflatten(-1, (-1, query.shape[-1])) for row in rows[1:])
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    whole = _fused(branch, parts["qkv"], hidden, run)
    batch, length, width = whole.shape
    whole = whole.view(batch, length, 3, heads, width // (3 * heads))
    query, key, value = whole.permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value


def _fused(branch: Branch, projection: Any, hidden: Tensor, run: Parts) -> Tensor:
    """`[B, T, D]` -> `[B, T, 3 H d]`; Eva keeps the biases beside its projection."""
    attention = branch.attention
    apart = attention._parameters.get("q_bias")
    if apart is None:
        return run((*branch.before, projection), hidden)
    normed = run(branch.before, hidden)
    bias = torch.cat((apart, attention.k_bias, attention.v_bias))
    if attention.qkv_bias_separate:
        made: Tensor = projection(normed)
        return made + bias
    return linear(normed, projection.weight, bias)


def turns(model: Any) -> bool:
    """Whether blocks are given a rotary embedding."""
    return getattr(model, ROTARY, None) is not None


def by_halves(model: Any) -> bool:
    """Whether the rotary embedding turns the halves of a head, and not pairs of neighbours."""
    return bool(getattr(model.blocks[0].attn, "rotate_half", False))


def cut(rope: Tensor, index: Tensor) -> Tensor:
    """The rotary rows of the patches that are left.

    Args:
        rope: `[N, 2 d]`, or `[H, N, 2 d]` where every head has its own.
        index: `[B, K]` patch whose place each token holds.

    Returns:
        `[B, 1, K, 2 d]` or `[B, H, K, 2 d]`.
    """
    rows = rope[..., index, :]
    return rows[:, None] if rope.dim() == 2 else rows.transpose(0, 1)


def project(branch: Branch, hidden: Tensor, attended: Tensor, run: Parts) -> Tensor:
    """Heads `[B, H, T, d]` -> the branch's contribution to `hidden` `[B, T, D]`."""
    parts = _parts(branch.attention)
    together, gate = attended.transpose(1, 2).flatten(2), parts.get("gate")
    behind = parts["proj"], parts["proj_drop"], *branch.after
    if gate is None:  # as in all older releases
        return run((parts["norm"], *behind), together)
    normed = run((parts["norm"],), together)
    return run(behind, normed * gate(run(branch.before, hidden)).sigmoid())


def attention_dropout(block: Any) -> float:
    """Dropout on attention weights that is active in training."""
    return max(float(branch.attention.attn_drop.p) for branch in branches(block))


def takes_any_size(model: Any) -> bool:
    """Whether a model takes pictures of any size."""
    return default_grid(model) is None or bool(model.dynamic_img_size)


def default_grid(model: Any) -> tuple[int, int] | None:
    """Patch grid (h, w) of the image size that the model was made for."""
    size = model.patch_embed.grid_size
    return None if size is None else (int(size[0]), int(size[1]))


def grid_of(model: Any, height: int, width: int) -> tuple[int, int]:
    """Patch grid (h, w) of a picture of this size."""
    fixed = default_grid(model)
    if fixed is not None and not takes_any_size(model):
        return fixed
    rows, columns = model.patch_embed.dynamic_feat_size((height, width))
    return int(rows), int(columns)


def drops_patches(model: Any) -> bool:
    """Whether random patches are dropped before the blocks right now."""
    dropping = model.patch_drop  # Eva has none where the rate is 0
    return bool(dropping is not None and dropping.training and getattr(dropping, "prob", 0.0) > 0)


def recomputes(model: Any) -> bool:
    """Whether the backward pass would run blocks a second time."""
    return bool(model.grad_checkpointing) and torch.is_grad_enabled()


def mean_skip(model: Any) -> int:
    """Leading tokens that the model leaves out of its average."""
    included = getattr(model, "pool_include_prefix", False)  # an option of VisionTransformer
    return 0 if included else int(model.num_prefix_tokens)


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
        if f"{cls.__module__}.{cls.__qualname__}" in MODELS:
            return None
        if "forward" in vars(cls) or "forward_features" in vars(cls):
            return cls.__name__
    return None
