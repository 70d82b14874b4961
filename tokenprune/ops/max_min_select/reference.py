"""On the CPU: one row of distances a pick, one sample at a time."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenprune.ops.picks import LOWEST, comparable, on_host

_BLOCK = 128


def max_min_select(distance: Tensor, k: int, gain: Tensor | None) -> Tensor:
    """See `tokenprune.ops.max_min_select`."""
    index = torch.empty((distance.shape[0], k), dtype=torch.int64, device="cpu")
    first = on_host(first_score(distance, gain))
    for b, one in enumerate(on_host(distance)):
        factor = None if gain is None else on_host(gain[b]).numpy()
        # In numpy: a step is shorter than most calls of torch. What 0 * inf gives is ranked.
        with np.errstate(invalid="ignore", over="ignore"):
            _one(one.numpy(), first[b].numpy(), factor, index[b].numpy())
    return index.to(distance.device)


def _one(
    distance: NDArray[np.float32],
    score: NDArray[np.float32],
    gain: NDArray[np.float32] | None,
    index: NDArray[np.int64],
) -> None:
    nearest = np.full_like(score, np.inf)
    for step in range(len(index)):
        pick = index[step] = score.argmax()
        nearest[pick] = -np.inf  # stays so, and no other token gets there
        np.minimum(nearest, np.fmax(distance[pick], LOWEST), out=nearest)
        score = nearest
        if gain is not None:
            score = np.fmax(nearest * gain, LOWEST)
            score[index[: step + 1]] = -np.inf


def first_score(distance: Tensor, gain: Tensor | None) -> Tensor:
    """Distance `[B, N]` of every token from the nearest other one, times its gain."""
    batch, tokens, _ = distance.shape
    nearest = distance.new_full((batch, tokens), torch.inf, dtype=torch.float32)
    # Blocks of rows: hiding the diagonal takes a copy, and a block of it stays in the cache.
    for start in range(0, tokens, _BLOCK):
        block = distance[:, start : start + _BLOCK].to(torch.float32, copy=True)
        block.diagonal(start, 1, 2).fill_(torch.inf)
        nearest = torch.minimum(nearest, block.amin(1))
    return comparable(nearest if gain is None else comparable(nearest) * gain.float())
