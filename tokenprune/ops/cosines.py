"""Cosines of all pairs of tokens, in blocks that fit the cache, and what is read from them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tokenprune.ops.take import typed

# Rows of a product whose mirror image isn't multiplied; numbers of the matrices of several samples
# that are worth an operation of their own on a CPU, and that a device may hold (ours).
_BLOCK = 96
_SMALL = 1 << 16
_HELD = 1 << 26
_ONE = (slice(0, 1),)
_SHORTEST = 1e-12  # length below which a row isn't brought to 1, as in torch's normalize


def unit_rows(x: Tensor) -> Tensor:
    """Rows at length 1 in float32, `[..., D]`; a zero vector stays zero."""
    x = typed(x, torch.float32)
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.clamp(min=_SHORTEST)


def gram(unit: Tensor, rows: int | None = None) -> Tensor:
    """Products of the first M rows with all, `[..., N, D]` -> `[..., M, N]`.

    Of many rows on a CPU only the upper blocks are multiplied, the rest is mirrored.

    Args:
        unit: the rows.
        rows: M; default all.
    """
    length = unit.shape[-2]
    rows = length if rows is None else rows
    if unit.device.type != "cpu" or rows <= _BLOCK:
        return unit[..., :rows, :] @ unit.mT
    out = unit.new_empty((*unit.shape[:-2], rows, length))
    step = -(-rows // -(-rows // _BLOCK))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        out[..., start:stop, start:] = unit[..., start:stop, :] @ unit[..., start:, :].mT
        out[..., stop:, start:stop] = out[..., start:stop, stop:rows].mT
    return out


def nearest_squares(cosine: Tensor, unit: Tensor, count: int) -> Tensor:
    """Squared distances of the first M rows to the `count` nearest others, `[..., M, count]`.

    Args:
        cosine: their products with all rows, `[..., M, N]`.
        unit: `[..., N, D]` rows of length 1 or 0.
        count: at most N - 1.
    """
    # |u - v|^2 = |u|^2 + |v|^2 - 2 u v; a zero vector has length 0, so the squares can't be taken
    # as 1, but they are the lengths. |u|^2 is the same along a row: the nearest ones alone get it.
    square = torch.linalg.vector_norm(unit, dim=-1)
    near = torch.sub(cosine, square[..., None, :], alpha=0.5)
    near.diagonal(dim1=-2, dim2=-1).fill_(-torch.inf)
    best = near.topk(count, dim=-1).values
    return torch.sub(square[..., : best.shape[-2], None], best, alpha=2.0).clamp_(min=0.0)


def exponents(square: Tensor, tau: float | None) -> Tensor:
    """`-d^2 / tau^2` of squared distances `[..., M, count]`.

    Args:
        square: to the nearest others.
        tau: width; None takes `tau^2` as the mean of each image's squares.
    """
    if tau is not None:
        return square * (-1.0 / tau**2)
    # The floor keeps an image of duplicates at 0 / tiny = 0 instead of 0 / 0.
    return -square / square.mean((-2, -1), keepdim=True).clamp(min=1e-12)


def gains(
    unit: Tensor, rows: int, weight: float, neighbours: int, tau: float | None
) -> tuple[Tensor, Tensor]:
    """`exp(-w d)`, of the density d = mean(1 - exp(-|u - v|^2 / tau^2)), and the cosines.

    Args:
        unit: `[..., N, D]` rows of length 1 or 0, N > 1.
        rows: how many of the first rows are asked for.
        weight: w.
        neighbours: nearest others that the mean is over, as far as there are so many.
        tau: see `exponents`.

    Returns:
        The gains of these rows, `[..., M]`, and their products with all rows, `[..., M, N]`. M may
        be more than `rows`: a width that is taken from an image is that of all its tokens.
    """
    cosine = gram(unit, None if tau is None else rows)
    count = min(neighbours, unit.shape[-2] - 1)
    power = exponents(nearest_squares(cosine, unit, count), tau)
    return power.expm1_().sum(-1).mul_(weight / count).exp_(), cosine


def samples(batch: int, length: int, device: torch.device) -> Sequence[slice]:
    """Parts of a batch whose matrices `[b, N, N]` fit the cache, or a device's memory."""
    if batch == 1:
        return _ONE
    budget = _SMALL if device.type == "cpu" else _HELD
    step = max(1, budget // max(1, length * length))
    return [slice(start, min(start + step, batch)) for start in range(0, batch, step)]
