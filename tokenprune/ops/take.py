"""Rows of dense batches."""

from __future__ import annotations

import torch
from torch import Tensor


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of `values` `[B, N, ...]` at `index` `[B, K]` -> `[B, K, ...]`."""
    if values.device.type == "cpu" and values.dim() > 2:
        # whole rows are copied at once; an expanded index looks every number up by itself
        sample = torch.arange(index.shape[0])[:, None]
        return values[sample, index]
    tail = values.shape[2:]
    spread = index.view(*index.shape, *([1] * len(tail))).expand(*index.shape, *tail)
    return values.gather(1, spread)
