"""Plain torch: one row of the Cholesky factor a pick, one sample at a time."""

import torch
from torch import Tensor

from tokenprune.ops.picks import comparable

SPANNED = 1e-6
"""Share of its diagonal entry below which nothing of a token counts as left."""


def dpp_select(kernel: Tensor, k: int) -> Tensor:
    """See `tokenprune.ops.dpp_select`."""
    index = torch.empty((kernel.shape[0], k), dtype=torch.int64, device=kernel.device)
    # Sample by sample, so that a batch gives bit for bit what its samples give alone.
    for b in range(kernel.shape[0]):
        _one(kernel[b].float(), index[b])
    return index


def _one(kernel: Tensor, index: Tensor) -> None:
    diagonal = kernel.diagonal()
    # In float64: products of the same numbers may be rounded differently by their place in a
    # matrix product, and in float32 that would tell equal tokens apart.
    rest = diagonal.double()
    factor = rest.new_zeros(len(index), len(kernel))
    taken = torch.zeros_like(diagonal, dtype=torch.bool)
    for step in range(len(index)):
        score = remaining(rest.float(), diagonal).masked_fill_(taken, -torch.inf)
        pick = score.argmax()
        index[step], taken[pick] = pick, True
        done = factor[:step]
        row = torch.addmv(kernel[pick].double(), done.T, done[:, pick], alpha=-1)
        # A spanned pick has no direction of its own to take out of the others.
        row = torch.where(score[pick] > 0, row / rest[pick].sqrt(), 0.0)
        factor[step] = row
        rest = rest - row.square()


def remaining(rest: Tensor, diagonal: Tensor) -> Tensor:
    """Score of every token, as `comparable` leaves it.

    The part that isn't spanned; for spanned tokens `-1 / diagonal`, which is below all others and
    keeps the order of the diagonal.
    """
    return comparable(torch.where(rest > SPANNED * diagonal, rest, -1 / diagonal.clamp(min=0.0)))
