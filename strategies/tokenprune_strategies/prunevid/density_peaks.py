"""DPC-KNN: clusters around points that are dense and far from anything denser."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Clusters(NamedTuple):
    """Centres `[K]`, ascending, and for every point `[M]` which of them it belongs to."""

    centre: Tensor
    label: Tensor


def cluster(points: Tensor, count: int, neighbours: int) -> Clusters:
    """Cluster points around `count` density peaks.

    Source: PruneVid's released code (arXiv 2412.16117, stage 1). It adds noise to the densities;
    here the lower index counts as the denser of equals (ours), so that answers repeat.

    Args:
        points: `[M, C]`.
        count: number of clusters; M or more makes every point its own.
        neighbours: k of the density, the point itself included; all M if there are fewer.
    """
    total = points.shape[0]
    every = torch.arange(total, device=points.device)
    if count >= total:
        return Clusters(every, every)
    x = points.float()
    # not by the Gram matrix, whose rounding tells duplicates apart
    exact = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(x, x, compute_mode=exact) / x.shape[1] ** 0.5
    nearest = distance.square().topk(min(neighbours, total), dim=1, largest=False).values
    spread = nearest.mean(dim=1)  # the density is exp(-spread)
    tie = (spread[None] == spread[:, None]) & (every[None] < every[:, None])
    denser = (spread[None] < spread[:, None]) | tie
    away = torch.where(denser, distance, torch.inf).amin(dim=1)
    away = torch.where(denser.any(dim=1), away, distance.max())
    # the logarithm of density times distance, because densities underflow
    order = torch.sort(away.log() - spread, descending=True, stable=True).indices
    centre = order[:count].sort().values
    label = distance[:, centre].argmin(dim=1)
    # a centre stays its own even where another one lies in the same point
    label = label.scatter(0, centre, torch.arange(count, device=x.device))
    return Clusters(centre, label)
