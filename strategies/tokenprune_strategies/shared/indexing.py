"""Indices of dense batches."""

import torch
from torch import Tensor


def complement(index: Tensor, count: int) -> Tensor:
    """The indices of 0..count-1 that `index` `[B, K]` leaves out, ascending, `[B, count - K]`."""
    taken = torch.zeros(index.shape[0], count, dtype=torch.int8, device=index.device)
    taken = taken.scatter(1, index, torch.ones_like(index, dtype=torch.int8))
    return torch.sort(taken, dim=1, stable=True).indices[:, : count - index.shape[1]]


def every(values: Tensor) -> Tensor:
    """The indices of all tokens of `values` `[B, N, ...]`, `[B, N]`."""
    return torch.arange(values.shape[1], device=values.device).expand(values.shape[0], -1)
