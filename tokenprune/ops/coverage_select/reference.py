"""Lazy greedy on the CPU, one sample at a time."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenprune.ops.picks import comparable, on_host

_POOL = 64
# Numbers of the rows whose first sums are taken together: what is added stays in the cache (ours).
_BLOCK = 1 << 19


def coverage_select(cover: Tensor, k: int, gain: Tensor | None) -> Tensor:
    """See `tokenprune.ops.coverage_select`."""
    batch, _, tokens = cover.shape
    index = torch.empty((batch, k), dtype=torch.int64, device="cpu")
    factor = torch.ones((), dtype=torch.float32, device="cpu") if gain is None else on_host(gain)
    for one, rows, factors in zip(index, on_host(cover), factor.expand(batch, tokens), strict=True):
        # One row for each token: the sum of a row is rounded the same way whichever rows are
        # taken, and the sum of a column is not.
        _one(rows.T.contiguous(), factors, one.numpy())
    return index.to(cover.device)


def _one(rows: Tensor, gain: Tensor, index: NDArray[np.int64]) -> None:
    covered = rows.new_zeros(rows.shape[1])
    rising = (gain < 0).numpy()
    any_rising = rising.any()
    # No score is above its bound, and those of the pool are their bounds.
    step = max(1, _BLOCK // max(1, rows.shape[1]))
    parts = zip(torch.split(rows, step), torch.split(gain, step), strict=True)
    bounds = torch.cat([scores(some, covered, factors) for some, factors in parts])
    bound, pool = bounds.numpy(), _Pool(rows, gain)
    for step in range(len(index)):
        if any_rising:
            # A falling sum times a negative factor rises, but never above zero.
            bound[rising] = 0.0
        pool.refresh(bound, covered)
        bound[index[:step]] = -np.inf
        pick = int(bound.argmax())
        while pool.place[pick] < 0:
            pool.choose(bounds, pick)
            pool.refresh(bound, covered)
            bound[index[:step]] = -np.inf
            pick = int(bound.argmax())
        index[step] = pick
        torch.fmax(covered, pool.rows[pool.place[pick]], out=covered)


class _Pool:
    """The tokens of the largest bounds, from which most picks come, with their scores taken anew.

    Attributes:
        tokens: which they are, `[P]`.
        rows: `[P, M]`, what they cover.
        place: `[N]`, where in the pool each token is; -1 for one outside.
    """

    def __init__(self, rows: Tensor, gain: Tensor) -> None:
        """An empty pool of `rows` `[N, M]` with factors `[N]`."""
        size = min(_POOL, len(rows))
        self._every, self._gains = rows, gain
        self.tokens = np.arange(0)
        self.rows, self._added = rows.new_empty(2, size, rows.shape[1])
        self.place = np.full(len(rows), -1)

    def choose(self, bounds: Tensor, pick: int) -> None:
        """Takes the tokens of the largest bounds, `pick` among them."""
        self.place[self.tokens] = -1
        chosen = bounds.topk(len(self.rows)).indices
        self.tokens = chosen.numpy()
        if pick not in self.tokens:
            self.tokens[-1] = pick  # of equal bounds, `topk` may leave out the first
        self.place[self.tokens] = np.arange(len(self.rows))
        torch.index_select(self._every, 0, chosen, out=self.rows)
        self._gain = self._gains[chosen]

    def refresh(self, bound: NDArray[np.float32], covered: Tensor) -> None:
        """Puts the scores of the pool in place of their bounds."""
        if len(self.tokens):
            bound[self.tokens] = scores(self.rows, covered, self._gain, self._added).numpy()


def scores(rows: Tensor, covered: Tensor, gain: Tensor, added: Tensor | None = None) -> Tensor:
    """What some tokens would add, `[n]`, from their rows `[n, M]`; `added` may be overwritten."""
    return comparable(torch.sub(rows, covered, out=added).clamp_(min=0.0).sum(1) * gain)
