"""On the CPU: one row of the Cholesky factor a pick, one sample at a time."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenprune.ops.picks import comparable, on_host

SPANNED = 1e-5
"""Share of its diagonal entry below which nothing of a token counts as left."""


def dpp_select(kernel: Tensor, k: int) -> Tensor:
    """See `tokenprune.ops.dpp_select`."""
    index = torch.empty((kernel.shape[0], k), dtype=torch.int64, device="cpu")
    # Sample by sample, so that a batch gives bit for bit what its samples give alone.
    for one, matrix in zip(index, on_host(kernel), strict=True):
        with np.errstate(invalid="ignore", over="ignore"):  # NaN is ranked below all
            _one(matrix.numpy(), spanned_score(matrix.diagonal()).numpy(), one.numpy())
    return index.to(kernel.device)


def _one(
    kernel: NDArray[np.float32], without: NDArray[np.float32], index: NDArray[np.int64]
) -> None:
    diagonal = kernel.diagonal()
    # In float64: products of the same numbers may be rounded differently by their place in a
    # matrix product, and in float32 that would tell equal tokens apart.
    rest = diagonal.astype(np.float64)
    factor = np.zeros((len(index), len(kernel)))
    floor = SPANNED * diagonal
    for step in range(len(index)):
        left = rest.astype(np.float32)
        score = np.where(left > floor, left, without)
        pick = index[step] = score.argmax()
        # A spanned pick has no direction of its own to take out of the others.
        if score[pick] > 0:
            done = factor[:step]
            row = (kernel[pick] - done[:, pick] @ done) / np.sqrt(rest[pick])
            factor[step] = row
            rest -= row * row
        floor[pick], without[pick] = np.inf, -np.inf  # taken


def spanned_score(diagonal: Tensor) -> Tensor:
    """Score of a token of which nothing is left: below all others, in the diagonal's order."""
    return comparable(-1 / diagonal.clamp(min=0.0))
