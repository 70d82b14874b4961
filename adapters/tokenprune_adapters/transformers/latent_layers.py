"""Query, key and value of attention whose keys and values come from one narrow projection (MLA).

All heads share the narrow rows, which alone are cached, and the last channels of the key, which
alone are rotated. Layers of DeepSeek V3 have it (arXiv 2412.19437, section 2.1.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.interface.calls import Rotary
from tokenprune_adapters.shared.rotary import rotated

WIDTH = "qk_head_dim"
"""Of the attention: channels of a head of query and key."""
PLAIN, TURNED, NARROW = "qk_nope_head_dim", "qk_rope_head_dim", "kv_lora_rank"
"""Of the attention: how many of them aren't rotated and stand in front, how many are, and channels
of the narrow rows."""
PAIRED = "rope_interleave"
"""Of its config: whether neighbouring channels turn together, and halves stand apart afterwards;
they do where it doesn't say so."""
QUERY_SCALE, KEY_SCALE = "q_lora_scale", "kv_lora_scale"
"""Of the attention: what narrow rows are multiplied by behind their norm, where it has such."""
TURNED_NORM = "k_rope_only_layernorm"
"""Of the attention: a norm of the key's shared channels, where it has one."""


def known(attention: Any) -> bool:
    """Whether a layer's attention is one of these, and not linear."""
    return hasattr(attention, NARROW)


def projections(attention: Any) -> Mapping[str, nn.Module]:
    """What makes the query's heads, and what makes narrow rows with the key's shared channels."""
    query = attention.q_proj if attention.q_b_proj is None else attention.q_b_proj
    return {"query": query, "key": attention.kv_a_proj_with_mqa}


def project(attention: Any, normed: Tensor) -> Mapping[str, Tensor]:
    """What these put out for rows `[B, T, D]` behind the layer's norm."""
    last = normed if attention.q_b_proj is None else narrow_query(attention, normed)
    made = projections(attention)
    return {"query": made["query"](last), "key": made["key"](normed)}


def narrow_query(attention: Any, normed: Tensor) -> Tensor:
    """Narrow rows of the query `[B, T, r]` of rows `[B, T, D]` behind the layer's norm."""
    return _times(attention.q_a_layernorm(attention.q_a_proj(normed)), attention, QUERY_SCALE)


def query_key(
    attention: Any, projected: Mapping[str, Tensor], rotary: Rotary
) -> tuple[Tensor, Tensor]:
    """Heads `[B, H, T, d]` of query and key, not scaled.

    Args:
        attention: the attention.
        projected: `[B, T, ...]` what its projections put out, by name.
        rotary: cosines and sines `[B or 1, T, r]`; None for no rotation.
    """
    query = torch.unflatten(projected["query"], -1, (-1, getattr(attention, WIDTH)))
    query = query.transpose(1, 2)
    plain, _ = _expanded(attention, projected["key"])
    shared = projected["key"][:, None, :, getattr(attention, NARROW) :]
    if hasattr(attention, TURNED_NORM):
        shared = getattr(attention, TURNED_NORM)(shared)
    key = torch.cat((plain, shared.expand(*plain.shape[:-1], -1)), dim=-1)
    return turned(attention, query, rotary), turned(attention, key, rotary)


def values(attention: Any, normed: Tensor) -> Tensor:
    """Heads `[B, H, T, v]` of the values of rows `[B, T, D]` behind the layer's norm."""
    return _expanded(attention, projections(attention)["key"](normed))[1]


def turned(attention: Any, states: Tensor, rotary: Rotary) -> Tensor:
    """Heads `[B, H, T, d]` with the last of their channels rotated."""
    if rotary is None:
        return states
    plain, part = torch.split(states, [getattr(attention, PLAIN), getattr(attention, TURNED)], -1)
    if getattr(attention.config, PAIRED, True):
        part = torch.unflatten(part, -1, (-1, 2)).transpose(-1, -2).flatten(-2)
    cos, sin = (rows.unsqueeze(1) for rows in rotary)
    return torch.cat((plain, rotated(part, cos, sin).to(part.dtype)), dim=-1)


def _expanded(attention: Any, narrow: Tensor) -> tuple[Tensor, Tensor]:
    """The key's channels without rotation, and the values, of every head, from narrow rows."""
    normed = attention.kv_a_layernorm(narrow[..., : getattr(attention, NARROW)])
    made = attention.kv_b_proj(_times(normed, attention, KEY_SCALE))
    heads = made.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
    first = getattr(attention, PLAIN)
    return heads[..., :first], heads[..., first:]


def _times(rows: Tensor, attention: Any, scale: str) -> Tensor:
    return rows * getattr(attention, scale) if hasattr(attention, scale) else rows
