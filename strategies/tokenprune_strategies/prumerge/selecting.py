"""Which tokens PruMerge keeps, in the order of its code."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune_strategies.shared.outliers import outliers


def adaptive(score: Tensor, *, plus: bool) -> Tensor:
    """The outliers, the largest first, and with `plus` a grid of others whose step they set.

    Args:
        score: `[N]`.
        plus: add every s-th token, s = N / (3 * outliers), rounded down twice as in the code; 1 at
            the least (ours).

    Returns:
        Indices `[k]`; ties go to the lower index.
    """
    count, found = len(score), outliers(score)
    best = score.argsort(descending=True, stable=True)[:found]
    if not plus:
        return best
    # The last token is never of the grid, as in the code.
    grid = torch.arange(0, count - 1, max(1, count // found // 3), device=score.device)
    return torch.cat((best, grid[~torch.isin(grid, best)]))


def budgeted(score: Tensor, keep: int) -> Tensor:
    """The outliers, the largest first, or the `keep` largest scores; evenly spaced others fill up.

    Args:
        score: `[N]`.
        keep: tokens in all, at most N.
    """
    order = score.argsort(descending=True, stable=True)
    best = order[: min(keep, outliers(score))]
    others = order[len(best) :].sort().values
    missing = keep - len(best)
    step = torch.arange(missing, device=score.device)
    return torch.cat((best, others[(2 * step + 1) * len(others) // (2 * max(1, missing))]))
