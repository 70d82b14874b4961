"""Rotary position embedding: by halves as in Llama and DINOv3, or by pairs as in EVA-02."""

from __future__ import annotations

import torch
from torch import Tensor


def rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn `[..., T, d]` by cosines and sines that broadcast to it (RoFormer, eq. 34)."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin


def rotated_as_float32(
    query: Tensor, key: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor]:
    """Turn query and key by halves in float32, and give them in their own type."""
    cos, sin = cos.float(), sin.float()
    if query.dtype == key.dtype:  # both at once: half as many operations
        heads = [query.shape[-3], key.shape[-3]]
        both = torch.cat((query, key), dim=-3)
        query, key = torch.split(rotated(both.float(), cos, sin).to(query.dtype), heads, dim=-3)
        return query, key
    query_type, key_type = query.dtype, key.dtype
    return (
        rotated(query.float(), cos, sin).to(query_type),
        rotated(key.float(), cos, sin).to(key_type),
    )


def rotated_pairs(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn neighbouring channels of `[..., T, d]` by cosines and sines (RoFormer, eq. 15)."""
    first, second = states[..., ::2], states[..., 1::2]
    return states * cos + torch.stack((-second, first), dim=-1).flatten(-2) * sin


def rotated_complex(states: Tensor, turn: Tensor) -> Tensor:
    """Turn neighbouring channels of `[..., T, d]` by complex numbers, broadcast to `[..., d/2]`.

    The same as `rotated_pairs`, in float32 at least and with the bits of complex products.
    """
    wide = states.to(torch.promote_types(states.dtype, torch.float32))
    pairs = torch.view_as_complex(wide.reshape(*wide.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turn).flatten(-2).to(states.dtype)
