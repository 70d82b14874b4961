"""Tokens far from each other."""

import torch
from torch import Tensor

from tokenprune.ops import take


def farthest(states: Tensor, first: Tensor, count: int) -> Tensor:
    """From a first token on always the one whose nearest pick is farthest away, `[B, count]`.

    In the order of picking, without repetition; ties go to the lower index.

    Args:
        states: `[B, N, D]`, compared by Euclidean distance.
        first: `[B]`.
        count: how many, from 1 to N.
    """
    picks = [first[:, None]]
    nearest = torch.full_like(states[..., 0], torch.inf)
    for _ in range(count - 1):
        square = (states - take(states, picks[-1])).square().sum(dim=-1)
        # What is picked comes last, duplicates of it come before.
        nearest = torch.minimum(nearest, square).scatter(1, picks[-1], -1.0)
        picks.append(nearest.argmax(dim=1, keepdim=True))
    return torch.cat(picks, dim=1)
