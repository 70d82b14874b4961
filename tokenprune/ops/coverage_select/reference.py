"""Plain torch: lazy greedy, one sample at a time."""

import torch
from torch import Tensor

from tokenprune.ops.picks import comparable

_BLOCK = 32


def coverage_select(cover: Tensor, k: int, gain: Tensor | None) -> Tensor:
    """See `tokenprune.ops.coverage_select`."""
    batch, _, tokens = cover.shape
    index = torch.empty((batch, k), dtype=torch.int64, device=cover.device)
    factor = cover.new_ones((), dtype=torch.float32) if gain is None else gain.float()
    for b, factors in enumerate(factor.expand(batch, tokens)):
        # One row for each token: the sum of a row is rounded the same way whichever rows are
        # taken, and the sum of a column is not.
        _one(cover[b].float().T.contiguous(), factors, index[b])
    return index


def _one(rows: Tensor, gain: Tensor, index: Tensor) -> None:
    covered = rows.new_zeros(rows.shape[1])
    rising = gain < 0
    any_rising = bool(rising.any())
    # No score is above its bound; where `fresh`, it is the bound.
    bound = scores(rows, covered, gain)
    fresh = torch.ones_like(rising)
    for step in range(len(index)):
        pick = int(bound.argmax())
        while not fresh[pick]:
            _refresh(rows, covered, gain, bound, fresh, pick)
            pick = int(bound.argmax())
        index[step], bound[pick] = pick, -torch.inf
        covered = torch.fmax(covered, rows[pick])
        fresh.fill_(False)
        if any_rising:
            # A falling sum times a negative factor rises, but never above zero.
            bound.masked_fill_(rising & (bound > -torch.inf), 0.0)


def _refresh(
    rows: Tensor, covered: Tensor, gain: Tensor, bound: Tensor, fresh: Tensor, pick: int
) -> None:
    """Takes the scores anew where the bounds are largest, `pick` included."""
    stale = bound.masked_fill(fresh, -torch.inf)
    best = stale.topk(min(_BLOCK, len(bound))).indices
    best[-1] = pick  # of equal bounds, `topk` may leave out the first
    untaken = bound[best] > -torch.inf
    bound[best] = scores(rows[best], covered, gain[best]).where(untaken, -torch.inf)
    fresh[best] = True


def scores(rows: Tensor, covered: Tensor, gain: Tensor) -> Tensor:
    """What some tokens would add, `[n]`, from their rows `[n, M]`."""
    return comparable((rows - covered).clamp_(min=0.0).sum(1) * gain)
