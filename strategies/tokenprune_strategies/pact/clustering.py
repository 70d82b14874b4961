"""Density peaks whose clusters are bounded: no member is farther from its centre than a cutoff."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune_strategies.shared.cosine import cosines

WIDTH = 2.0
"""Of the Gaussian that densities are sums of."""


def centres(keys: Tensor, cutoff: float) -> Tensor:
    """Tokens that are farther than the cutoff from every centre that is denser.

    Args:
        keys: `[n, C]`; distances are 1 - cosine.
        cutoff: the bound.

    Returns:
        `[c]` ascending. Of equally dense tokens the lower one is denser (ours).
    """
    distance = (1 - cosines(keys[None])[0]).clamp(min=0).fill_diagonal_(0)
    density = (-(distance / WIDTH).square()).exp().sum(dim=1)
    order = density.argsort(descending=True, stable=True)
    rank = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device))
    near = distance <= cutoff
    ahead = near & (rank[None] < rank[:, None])
    found = torch.zeros_like(near[0])
    left = ~found
    # Who has no denser one near that is undecided is a centre whatever is decided later.
    while bool(left.any()):
        new = left & ~(ahead & left[None]).any(dim=1)
        found = found | new
        left = left & ~(near & new[None]).any(dim=1)
    return found.nonzero()[:, 0]


def nearest(keys: Tensor, centre: Tensor, reach: float) -> Tensor:
    """Which centre each token joins, `[N]`; -1 where the nearest is out of reach.

    Args:
        keys: `[N, C]`.
        centre: `[c]` of these; each joins itself.
        reach: the largest distance.
    """
    unit = normalize(keys.float(), dim=-1)
    distance = 1 - unit @ unit[centre].T
    slot = distance.argmin(dim=1)
    near = distance.gather(1, slot[:, None])[:, 0] <= reach
    own = torch.arange(len(centre), device=centre.device)
    return torch.where(near, slot, -1).scatter(0, centre, own)
