"""Plain torch: the Gram matrix of one sample at a time."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

_BLOCK = 128


def knn_density(x: Tensor, count: int) -> Tensor:
    """Squared distances `[B, N, count]` to the nearest others; see `knn_distance_op`."""
    batch, length, _ = x.shape
    nearest = torch.empty((batch, length, count), dtype=torch.float32, device=x.device)
    for i in range(batch):
        unit = normalize(x[i].float(), dim=-1)
        square = unit.square().sum(-1)
        # A zero vector has length 0 after normalising, so the squares can't be taken as 1.
        distance = gram(unit).mul_(-2.0).add_(square[:, None]).add_(square[None])
        distance.clamp_(min=0.0).fill_diagonal_(torch.inf)
        nearest[i] = distance.topk(count, dim=-1, largest=False, sorted=False).values
    return nearest


def gram(unit: Tensor) -> Tensor:
    """`unit @ unit.T`, `[N, D]` -> `[N, N]`.

    On a CPU only the upper blocks are multiplied, the rest is mirrored.
    """
    length = unit.shape[0]
    if unit.device.type != "cpu" or length <= _BLOCK:
        return unit @ unit.T
    out = unit.new_empty(length, length)
    for start in range(0, length, _BLOCK):
        stop = min(start + _BLOCK, length)
        out[start:stop, start:] = unit[start:stop] @ unit[start:].T
        out[stop:, start:stop] = out[start:stop, stop:].T
    return out
