"""Indices of dense batches."""

import torch
from torch import Tensor


def complement(index: Tensor, count: int) -> Tensor:
    """The indices of 0..count-1 that `index` `[B, K]` leaves out, ascending, `[B, count - K]`."""
    taken = torch.zeros(index.shape[0], count, dtype=torch.int8, device=index.device)
    taken = taken.scatter(1, index, torch.ones_like(index, dtype=torch.int8))
    return torch.sort(taken, dim=1, stable=True).indices[:, : count - index.shape[1]]


def best_last(score: Tensor, number: int) -> Tensor:
    """All indices, those of the `number` best scores behind the others, `[B, N]` -> `[B, N]`.

    The others are ascending, these best first; ties count the lower index as better.
    """
    order = torch.sort(score, dim=1, descending=True, stable=True).indices
    # no two indices are equal, so topk has no ties to break and does in one operation what sort
    # does in three
    others = order[:, number:].topk(order.shape[1] - number, dim=1, largest=False).values
    return torch.cat((others, order[:, :number]), dim=1)


def every(values: Tensor) -> Tensor:
    """The indices of all tokens of `values` `[B, N, ...]`, `[B, N]`."""
    return torch.arange(values.shape[1], device=values.device).expand(values.shape[0], -1)
