"""Rows of tokens that are left, at the places of all."""

from __future__ import annotations

import torch
from torch import Tensor


def spread(hidden: Tensor, index: Tensor, prefix: int, count: int) -> Tensor:
    """States in the places of all tokens, zeros where one was removed.

    Args:
        hidden: `[B, P + K, D]`.
        index: `[B, K]` places, in 0..N-1, of what stands behind the prefix.
        prefix: P, rows in front.
        count: N.

    Returns:
        `[B, P + N, D]`.
    """
    batch, _, width = hidden.shape
    if prefix:
        ahead = torch.arange(prefix, device=index.device).expand(batch, -1)
        index = torch.cat((ahead, prefix + index), dim=1)
    column = index[..., None].expand_as(hidden)
    return hidden.new_zeros(batch, prefix + count, width).scatter(1, column, hidden)
