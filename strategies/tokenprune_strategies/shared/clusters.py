"""Clusters whose centres keep most of themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.ops import merge_compact, sum_compact


def blended(states: Tensor, centre: Tensor, label: Tensor, *, own: float) -> Tensor:
    """Centres mixed with the mean of the others of their clusters; alone, they stay as they are.

    Args:
        states: `[n, D]`.
        centre: `[c]` rows of the centres, each a member of its own cluster.
        label: `[n]` cluster of every row.
        own: the centre's share, the others' mean has the rest.

    Returns:
        `[c, D]`.
    """
    other = torch.ones_like(states[:, 0]).scatter(0, centre, 0.0)
    mean = merge_compact(states[None], label[None], other[None], len(centre))[0]
    alone = sum_compact(other[None], label[None], len(centre))[0] == 0
    mixed = own * states[centre] + (1 - own) * mean
    return torch.where(alone[:, None], states[centre], mixed)
