"""Plain torch: the distance matrix of one sample at a time."""

import torch
from torch import Tensor


def cluster_dpc(x: Tensor, count: int, neighbours: int) -> tuple[Tensor, Tensor]:
    """See `tokenprune.ops.cluster_dpc`."""
    batch, tokens, _ = x.shape
    centre = torch.empty((batch, count), dtype=torch.int64, device=x.device)
    label = torch.empty((batch, tokens), dtype=torch.int64, device=x.device)
    for b in range(batch):
        centre[b], label[b] = _one(x[b].float(), count, neighbours)
    return centre, label


def _one(x: Tensor, count: int, neighbours: int) -> tuple[Tensor, Tensor]:
    every = torch.arange(len(x), device=x.device)
    if count == len(x):
        return every, every
    # Not by the Gram matrix, whose rounding tells duplicates apart.
    exact = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(x, x, compute_mode=exact) / x.shape[1] ** 0.5
    nearest = distance.square().topk(min(neighbours, len(x)), dim=1, largest=False).values
    spread = nearest.mean(dim=1)  # the density is exp(-spread)
    tie = (spread[None] == spread[:, None]) & (every[None] < every[:, None])
    denser = (spread[None] < spread[:, None]) | tie
    away = torch.where(denser, distance, torch.inf).amin(dim=1)
    away = torch.where(denser.any(dim=1), away, distance.max())
    # The logarithm of density times distance, because densities underflow.
    order = torch.sort(away.log() - spread, descending=True, stable=True).indices
    centre = order[:count].sort().values
    label = distance[:, centre].argmin(dim=1)
    # A centre stays its own even where another one lies in the same point.
    return centre, label.scatter(0, centre, every[:count])
