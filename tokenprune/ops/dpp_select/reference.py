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
    floor, without = SPANNED * diagonal, spanned_score(diagonal)
    for step in range(len(index)):
        left = rest.float()
        score = torch.where(left > floor, left, without)
        pick = score.argmax()
        index[step] = pick
        done = factor[:step]
        row = torch.addmv(kernel[pick].double(), done.T, done[:, pick], alpha=-1)
        # A spanned pick has no direction of its own to take out of the others.
        row = torch.where(score[pick] > 0, row / rest[pick].sqrt(), 0.0)
        factor[step] = row
        rest = rest.addcmul_(row, row, value=-1)
        floor[pick], without[pick] = torch.inf, -torch.inf  # taken


def spanned_score(diagonal: Tensor) -> Tensor:
    """Score of a token of which nothing is left: below all others, in the diagonal's order."""
    return comparable(-1 / diagonal.clamp(min=0.0))
