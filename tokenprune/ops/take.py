"""Rows of dense batches."""

from __future__ import annotations

from torch import Tensor


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of `values` `[B, N, ...]` at `index` `[B, K]` -> `[B, K, ...]`."""
    tail = values.shape[2:]
    spread = index.view(*index.shape, *([1] * len(tail))).expand(*index.shape, *tail)
    return values.gather(1, spread)
