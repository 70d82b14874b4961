"""Plain torch: the distance matrix of one sample at a time."""

import torch
from torch import Tensor

_BLOCK = 128
_NEAR = 1e-7
"""Share of a pair's squared lengths below which its squared distance is taken by difference."""
_PAIRS = 4096


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
    distance = distances(x) / x.shape[1] ** 0.5
    nearest = distance.topk(min(neighbours, len(x)), dim=1, largest=False).values
    spread = nearest.square().mean(dim=1)  # the density is exp(-spread)
    order = torch.sort(spread, stable=True).indices
    rank = torch.empty_like(order).scatter_(0, order, every)
    away = torch.where(rank[None] < rank[:, None], distance, torch.inf).amin(dim=1)
    # None is denser than the first.
    away = torch.where(rank > 0, away, distance.max())
    # The logarithm of density times distance, because densities underflow.
    order = torch.sort(away.log() - spread, descending=True, stable=True).indices
    centre = order[:count].sort().values
    label = distance[:, centre].argmin(dim=1)
    # A centre stays its own even where another one lies in the same point.
    return centre, label.scatter(0, centre, every[:count])


def distances(x: Tensor) -> Tensor:
    """Euclidean distances `[N, N]` of points `[N, D]`, the same for points that are the same."""
    if x.device.type != "cpu":
        return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    points, which = torch.unique(x, dim=0, return_inverse=True)
    if len(points) == len(x):
        return _by_products(x)
    return _by_products(points)[which][:, which]


def _by_products(x: Tensor) -> Tensor:
    """Many times faster than by differences, and in float64 as exact as these are in float32."""
    wide = x.double()
    # Rounded, so that differences of small integers, and so their ties, stay exact.
    wide -= wide.mean(dim=0).bfloat16()
    square = wide.square().sum(dim=1)
    out = torch.empty(len(x), len(x), dtype=x.dtype, device=x.device)
    for start in range(0, len(x), _BLOCK):
        rows, others = wide[start : start + _BLOCK], wide[start:]
        sums = square[start : start + _BLOCK, None] + square[start:]
        block = torch.addmm(sums, rows, others.T, alpha=-2)
        # The products of close points nearly cancel, so these are taken by difference.
        for pairs in torch.split((block < _NEAR * sums).nonzero(), _PAIRS):
            i, j = pairs.unbind(dim=1)
            block[i, j] = (rows[i] - others[j]).square().sum(dim=1)
        stop = start + len(rows)
        out[start:stop, start:] = block.sqrt_()
        out[stop:, start:stop] = out[start:stop, stop:].T
    return out
