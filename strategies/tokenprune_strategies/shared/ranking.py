"""Places of tokens by their score among some others."""

import torch
from torch import Tensor


def place_in_group(score: Tensor, group: Tensor) -> Tensor:
    """Place of every token by its score within its group, from 0; ties: lower index.

    Args:
        score: `[B, N]`.
        group: `[B, N]` numbers.

    Returns:
        `[B, N]` int64; the best of each group has place 0.
    """
    best = torch.sort(score, dim=1, descending=True, stable=True).indices
    by_group = torch.sort(group.gather(1, best), dim=1, stable=True)
    order = best.gather(1, by_group.indices)
    number = torch.arange(order.shape[1], device=order.device).expand_as(order)
    begins = torch.ones_like(order, dtype=torch.bool)
    begins[:, 1:] = by_group.values[:, 1:] != by_group.values[:, :-1]
    first = torch.where(begins, number, 0).cummax(dim=1).values
    return torch.empty_like(order).scatter(1, order, number - first)
