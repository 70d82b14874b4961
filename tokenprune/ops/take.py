"""Rows of dense batches."""

from __future__ import annotations

import torch
from torch import Tensor


def typed(values: Tensor, kind: torch.dtype) -> Tensor:
    """Values of a type; `Tensor.to` costs an operation also where there is nothing to do."""
    return values if values.dtype == kind else values.to(kind)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of `values` `[B, N, ...]` at `index` `[B, K]` -> `[B, K, ...]`."""
    if values.device.type == "cpu" and values.dim() > 2:
        # whole rows are copied at once; an expanded index looks every number up by itself
        sample = torch.arange(index.shape[0], device="cpu")[:, None]
        return values[sample, index]
    tail = values.shape[2:]
    if not tail:
        return values.gather(1, index)
    spread = index.view(*index.shape, *([1] * len(tail))).expand(*index.shape, *tail)
    return values.gather(1, spread)
