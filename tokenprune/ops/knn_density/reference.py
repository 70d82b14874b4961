"""Plain torch: the Gram matrix of a few samples at a time."""

import torch
from torch import Tensor

from tokenprune.ops.cosines import gram, nearest_squares, samples, unit_rows


def knn_density(x: Tensor, count: int) -> Tensor:
    """Squared distances `[B, N, count]` to the nearest others; see `knn_distance_op`."""
    batch, length, _ = x.shape
    nearest = torch.empty((batch, length, count), dtype=torch.float32, device=x.device)
    for part in samples(batch, length, x.device):
        unit = unit_rows(x[part])
        nearest[part] = nearest_squares(gram(unit), unit, count)
    return nearest
