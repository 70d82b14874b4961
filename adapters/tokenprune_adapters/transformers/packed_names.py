"""How the adapter of packed vision towers reads transformers: classes, parts and arguments.

Nothing here imports transformers: models are read by attribute, classes by full name.
`tests/adapters/test_compat_packed.py` checks each name and signature.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.interface.calls import Arguments
from tokenprune_adapters.shared.signatures import Relied

_CLASSES = {
    "qwen2_vl": ("Qwen2VisionTransformerPretrainedModel", "Qwen2VLVisionBlock", "VisionAttention"),
    "qwen2_5_vl": (
        "Qwen2_5_VisionTransformerPretrainedModel",
        "Qwen2_5_VLVisionBlock",
        "Qwen2_5_VLVisionAttention",
    ),
    "qwen3_vl": ("Qwen3VLVisionModel", "Qwen3VLVisionBlock", "Qwen3VLVisionAttention"),
    "qwen3_vl_moe": (
        "Qwen3VLMoeVisionModel",
        "Qwen3VLMoeVisionBlock",
        "Qwen3VLMoeVisionAttention",
    ),
    "qwen2_5_omni": (
        "Qwen2_5OmniVisionEncoder",
        "Qwen2_5OmniVisionBlock",
        "Qwen2_5OmniVisionAttention",
    ),
    "qwen3_omni_moe": (
        "Qwen3OmniMoeVisionEncoder",
        "Qwen3OmniMoeVisionBlock",
        "Qwen3OmniMoeVisionAttention",
    ),
    "qwen3_5": ("Qwen3_5VisionModel", "Qwen3_5VisionBlock", "Qwen3_5VisionAttention"),
    "qwen3_5_moe": ("Qwen3_5MoeVisionModel", "Qwen3_5MoeVisionBlock", "Qwen3_5MoeVisionAttention"),
    "qwen4_exp": ("Qwen4ExpVisionModel", "Qwen4ExpVisionBlock", "Qwen4ExpVisionAttention"),
    "exaone4_5": (
        "Exaone4_5_VisionModel",
        "Exaone4_5_VisionBlock",
        "Exaone4_5_VisionAttention",
    ),
    "cohere_compass": (
        "CohereCompassVisionModel",
        "CohereCompassVisionBlock",
        "CohereCompassVisionAttention",
    ),
    "glm4v": ("Glm4vVisionModel", "Glm4vVisionBlock", "Glm4vVisionAttention"),
    "glm4v_moe": ("Glm4vMoeVisionModel", "Glm4vMoeVisionBlock", "Glm4vMoeVisionAttention"),
    "glm5_next": ("Glm5NextVisionModel", "Glm5NextVisionBlock", "Glm5NextVisionAttention"),
    "dots3_note": ("Dots3NoteVisionModel", "Dots3NoteVisionBlock", "Dots3NoteVisionAttention"),
    "glm_ocr": ("GlmOcrVisionModel", "GlmOcrVisionBlock", "GlmOcrVisionAttention"),
}


def _named(part: int) -> tuple[str, ...]:
    """Full names of the classes of one part, of every family."""
    module = "transformers.models.{0}.modeling_{0}".format
    return tuple(f"{module(folder)}.{names[part]}" for folder, names in _CLASSES.items())


TOWERS, BLOCKS, ATTENTIONS = (_named(part) for part in range(3))
"""Classes of towers, of their blocks and of the attention in these."""

_ERNIE = "transformers.models.ernie4_5_vl_moe.modeling_ernie4_5_vl_moe.Ernie4_5_VLMoeVision{0}"
ERNIE_TOWERS, ERNIE_BLOCKS, ERNIE_ATTENTIONS = (
    (_ERNIE.format(part),) for part in ("TransformerPretrainedModel", "Block", "Attention")
)
"""The same of ERNIE 4.5 VL."""

ROWS, GRIDS = "hidden_states", "grid_thw"
TAKES = ((ROWS, "pixel_values"), GRIDS)
"""What a tower is called with: rows of patches `[R, ...]`, which it calls by one of these names,
and (t, h, w) in patches `[n, 3]`."""
MERGED = ("x", "hidden", "hidden_state")
"""What modules that make one row of every unit call its patches, which go by position."""
BORDERS, ROTARY = "cu_seqlens", "position_embeddings"
"""What a block is given by name: borders of its segments, cosines and sines `[R, d]`."""
ORDER, ORDER_BORDERS = "window_index", "cu_window_seqlens"
"""Where a caller made them: units in the order in which they stand, and borders of windows."""
PLACES, WINDOWS, EDGES, TAPS = (
    "get_vision_position_ids",
    "get_vision_window_index",
    "get_vision_attention_seqlens",
    "get_vision_interpolation_indices_and_weights",
)
"""What works out, in a tower's module, from grids: places of rows, windows, borders of frames, and
how the learned positions are resampled."""
EDGES_INSIDE = "tokenprune_borders"
"""The borders as numbers, beside those that a tower computes with; it hands them to its blocks."""
GROUPS = "num_key_value_groups"
"""Of the attention: heads of the query that share one of key and value."""
LONGEST = "max_seqlen", "max_window_seqlen"
"""Rows of the longest frame and window; only asked for where FlashAttention runs."""


def blocks(tower: Any) -> list[nn.Module]:
    """The transformer blocks, in order."""
    return list(tower.blocks)


def exits(tower: Any) -> list[nn.Module]:
    """What makes one row of every unit: behind the last block, and between blocks (DeepStack).

    Nothing in the tower does where it is a part of the model (ERNIE).
    """
    last = [tower.merger] if hasattr(tower, "merger") else []
    return [*last, *getattr(tower, "deepstack_merger_list", ())]


def side(tower: Any) -> int:
    """Rows and columns of patches of a unit."""
    return int(tower.spatial_merge_size)


def width(tower: Any) -> int:
    """Channels of a row."""
    return int(tower.blocks[0].attn.proj.out_features)


def computes(tower: Any) -> bool:
    """Whether a tower computes with the borders, before it hands them to its blocks (GLM)."""
    return hasattr(tower, "embeddings")


def foreseen(tower: Any, grids: Tensor, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the tower works out of grids, by the names under which it takes them ready-made.

    The library's own functions do, so that the tower's values are what they would be.

    Args:
        tower: the tower.
        grids: (t, h, w) in patches.
        given: further arguments of the call; what is there stays.
    """
    module, rest = sys.modules[type(tower).__module__], dict(given)
    found = {"position_ids": getattr(module, PLACES)(grids, tower.spatial_merge_size, kwargs=rest)}
    borders, longest = getattr(module, EDGES)(grids, tower.config, kwargs=rest)
    found |= {BORDERS: borders, LONGEST[0]: longest}
    if hasattr(tower, "window_size"):
        sizes = ("spatial_merge_size", "window_size", "patch_size")
        each = {name: getattr(tower, name) for name in sizes}
        order, windows = getattr(module, WINDOWS)(grids, **each, kwargs=rest)
        found |= {ORDER: order, ORDER_BORDERS: windows}
    if hasattr(module, TAPS):
        taps, weights = getattr(module, TAPS)(
            grids,
            num_grid_per_side=tower.num_grid_per_side,
            mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners,
            spatial_merge_size=tower.spatial_merge_size,
            kwargs=rest,
        )
        found |= {"interp_indices": taps, "interp_weights": weights}
    return {name: value for name, value in found.items() if value is not None}


def heads(block: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`[B, T, D]` -> query, key, value `[B, H, T, d]`, which one projection makes, or three.

    Heads of query and key are normed where the attention has norms for them (GLM-OCR), and heads of
    key and value repeated where several heads of the query share one (EXAONE 4.5).
    """
    attention, rows = block.attn, block.norm1(hidden)
    if hasattr(attention, "qkv"):
        joint = attention.qkv(rows)
    else:
        joint = torch.cat((attention.q(rows), attention.k(rows), attention.v(rows)), dim=-1)
    if getattr(attention, GROUPS, 1) > 1:
        joint = _repeated(joint, attention.num_heads, getattr(attention, GROUPS))
    whole = joint.unflatten(-1, (3, attention.num_heads, -1))
    query, key, value = whole.permute(2, 0, 3, 1, 4)
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    return query, key, value


def _repeated(joint: Tensor, heads: int, groups: int) -> Tensor:
    """Rows of query, key and value with a head of key and value for every one of the query."""
    count = heads // groups
    by_head = torch.unflatten(joint, -1, (heads + 2 * count, -1))
    query, *shared = torch.split(by_head, [heads, count, count], dim=-2)
    repeated = [one.repeat_interleave(groups, dim=-2) for one in shared]
    return torch.cat((query, *repeated), dim=-2).flatten(-2)


def join(block: Any, hidden: Tensor, attended: Tensor) -> Tensor:
    """Heads `[B, H, T, d]` through the output projection, added to `hidden` `[B, T, D]`."""
    added: Tensor = block.attn.proj(attended.transpose(1, 2).flatten(2))
    return hidden + added


def feed_forward(block: Any, hidden: Tensor) -> Tensor:
    """Second norm, MLP and residual: `[B, T, D]` -> `[B, T, D]`."""
    added: Tensor = block.mlp(block.norm2(hidden))
    return hidden + added


def dropout(block: Any) -> float:
    """Dropout on attention weights that is active now."""
    return float(block.attn.attention_dropout) if block.training else 0.0


def cut(kwargs: Arguments, rows: Tensor) -> dict[str, Any]:
    """What a block is given, for some rows `[R']`, ascending, of the whole sequence."""
    borders = kwargs[BORDERS]
    # in a graph there are numbers, and how many are left has none
    if isinstance(borders, Tensor) and EDGES_INSIDE not in kwargs:
        borders = left_of(borders, rows)
    return {**turned(kwargs, rows), BORDERS: borders}


def turned(kwargs: Arguments, rows: Tensor) -> dict[str, Any]:
    """What a block is given, with cosines and sines, if any, of some rows `[R']` in any order."""
    if ROTARY not in kwargs:  # HunYuan's
        return dict(kwargs)
    rotary = tuple(part[rows.to(part.device)] for part in kwargs[ROTARY])
    return {**kwargs, ROTARY: rotary}


def left_of(borders: Tensor, rows: Tensor) -> Tensor:
    """Borders `[S + 1]` among some rows `[R']`, ascending, of those that they were made for.

    Segments that no row is left of go away, because not every attention takes empty ones.
    """
    before = torch.searchsorted(rows.to(borders.device), borders.to(rows.dtype))
    left: Tensor = torch.unique_consecutive(before)
    return left.to(borders.dtype)


def relied_on(tower: Any) -> list[Relied]:
    """The methods that the engine overrides, with their arguments."""
    return [
        Relied(tower, "forward", first=TAKES),
        *(Relied(block, "forward", (BORDERS, ROTARY), first=(ROWS,)) for block in blocks(tower)),
        *(Relied(module, "forward", first=(MERGED,)) for module in exits(tower)),
    ]
