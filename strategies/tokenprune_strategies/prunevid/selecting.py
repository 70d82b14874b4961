"""Which tokens the question keeps, inside the LLM."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tokenprune_strategies.prunevid.segments import ROUNDING


def selected(score: Tensor, group: Tensor | None, alpha: float, floor: int) -> Tensor:
    """The paper's choice, `[N]` bool; ties go to the lower index.

    Args:
        score: `[N]`.
        group: `[N]` int64, ranked within each: `int(alpha * n)` of n tokens, as the released code
            does; None ranks all together and keeps `ceil(alpha * N)`, as in the paper.
        alpha: share that is kept.
        floor: least number that is kept of a group.
    """
    kept = torch.zeros_like(score, dtype=torch.bool)
    if group is None:
        return best(score, math.ceil(alpha * len(score) - ROUNDING))
    for number in torch.unique(group).tolist():
        mine = (group == number).nonzero()[:, 0]
        count = max(int(alpha * len(mine) + ROUNDING), min(floor, len(mine)))
        kept[mine] = best(score[mine], count)
    return kept


def to_budget(chosen: Tensor, score: Tensor, keep: int) -> Tensor:
    """Exactly `keep` tokens, `[N]` bool: chosen ones first, then the others, each by score (ours).

    Args:
        chosen: `[N]` bool.
        score: `[N]`.
        keep: no more than N.
    """
    order = torch.sort(score, descending=True, stable=True).indices
    order = order[torch.sort(chosen[order].to(torch.int8), descending=True, stable=True).indices]
    return torch.zeros_like(chosen).scatter(0, order[:keep], True)


def best(score: Tensor, count: int) -> Tensor:
    """The `count` best, `[N]` bool; ties go to the lower index."""
    order = torch.sort(score, descending=True, stable=True).indices[:count]
    return torch.zeros_like(score, dtype=torch.bool).scatter(0, order, True)
