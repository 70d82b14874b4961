"""Cosines of all pairs of tokens, in blocks that fit the cache, and what is read from them."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

_BLOCK = 128
_CACHED = 1 << 19
_HELD = 1 << 26


def unit_rows(x: Tensor) -> Tensor:
    """Rows at length 1 in float32, `[..., D]`; a zero vector stays zero."""
    return normalize(x.float(), dim=-1)


def gram(unit: Tensor) -> Tensor:
    """`unit @ unit.mT`, `[..., N, D]` -> `[..., N, N]`.

    Of many rows on a CPU only the upper blocks are multiplied, the rest is mirrored.
    """
    length = unit.shape[-2]
    if unit.device.type != "cpu" or length <= 2 * _BLOCK:
        return unit @ unit.mT
    out = unit.new_empty((*unit.shape[:-2], length, length))
    for start in range(0, length, _BLOCK):
        stop = min(start + _BLOCK, length)
        out[..., start:stop, start:] = unit[..., start:stop, :] @ unit[..., start:, :].mT
        out[..., stop:, start:stop] = out[..., start:stop, stop:].mT
    return out


def nearest_squares(cosine: Tensor, count: int) -> Tensor:
    """Squared distances to the `count` nearest others, `[..., N, count]`, in no order.

    Args:
        cosine: a Gram matrix of rows of length 1 or 0, `[..., N, N]`.
        count: at most N - 1.
    """
    # |u - v|^2 = |u|^2 + |v|^2 - 2 u v; a zero vector has length 0, so the squares can't be taken
    # as 1. |u|^2 is the same along a row, so it is added to the nearest ones only.
    square = cosine.diagonal(dim1=-2, dim2=-1)
    distance = torch.sub(square[..., None, :], cosine, alpha=2.0)
    distance.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    near = distance.topk(count, dim=-1, largest=False, sorted=False).values
    return near.add_(square[..., None]).clamp_(min=0.0)


def closeness(square: Tensor, tau: float | None) -> Tensor:
    """`exp(-d^2 / tau^2)` of squared distances `[..., N, count]`.

    Args:
        square: of the nearest others.
        tau: width; None takes `tau^2` as the mean of each image's squares.
    """
    if tau is not None:
        return torch.exp(square * (-1.0 / tau**2))
    # The floor keeps an image of duplicates at 0 / tiny = 0 instead of 0 / 0.
    return torch.exp(-square / square.mean((-2, -1), keepdim=True).clamp(min=1e-12))


def samples(batch: int, length: int, device: torch.device) -> Iterator[slice]:
    """Parts of a batch whose matrices `[b, N, N]` fit the cache, or a device's memory."""
    budget = _CACHED if device.type == "cpu" else _HELD
    step = max(1, budget // max(1, length * length))
    for start in range(0, batch, step):
        yield slice(start, min(start + step, batch))
