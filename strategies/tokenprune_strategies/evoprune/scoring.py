"""The terms of EvoPrune's pair score, as pure functions.

Source: arXiv 2603.03681, sections 3.3 and 3.4.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tokenprune.ops import knn_density, topk_indices
from tokenprune_strategies.shared.bipartite import alternate
from tokenprune_strategies.shared.indexing import complement, every


def protected_count(count: int, remove: int, ratio: float) -> int:
    """`max(0, floor(min(CTR T, T - 2 r)))`: how many tokens are protected at this step.

    The lower bound and the rounding are ours.
    """
    return max(0, min(int(ratio * count + 1e-9), count - 2 * remove))


def kept_on(importance: Tensor, before: Tensor | None, number: int) -> tuple[Tensor, Tensor]:
    """Protected tokens of a step that goes on protecting those of the steps before it.

    Args:
        importance: `[B, N]` from 0 to 1.
        before: `[B, N]` True for tokens that were protected; None at the first step.
        number: tokens to protect; earlier ones come first, of these the most important.

    Returns:
        An importance by which exactly these tokens come first, and which they are, `[B, N]` both.
    """
    ranked = importance if before is None else importance + 2.0 * before
    chosen = topk_indices(ranked, number)
    now = torch.zeros_like(importance, dtype=torch.bool)
    return ranked, now.scatter(1, chosen, torch.ones_like(chosen, dtype=torch.bool))


def diversity_gain(metric: Tensor, weight: float, neighbours: int, tau: float | None) -> Tensor:
    """`exp(-lambda d_i)`, `[B, N]`; the factor of a pair is the product of its two tokens'.

    `d_i` in 0..1 is large for tokens of sparse regions, which are therefore merged last.
    """
    return torch.exp(-weight * knn_density(metric, neighbours=neighbours, tau=tau))


class Parts(NamedTuple):
    """Who may merge with whom.

    Attributes:
        source: `[B, Na]` tokens that propose.
        target: `[B, Nb]` tokens that they may merge into.
        blocked: `[B, N]` bool, tokens that should take part only if the count needs them, or None.
    """

    source: Tensor
    target: Tensor
    blocked: Tensor | None = None


def split(
    metric: Tensor,
    importance: Tensor | None,
    remove: int,
    *,
    ratio: float,
    partition: Literal["unprotected", "all"],
) -> Parts:
    """Set the protected tokens aside and split the others into sources and targets.

    Args:
        metric: `[B, N, D]`.
        importance: `[B, N]`; None protects nothing.
        remove: number of pairs r, at most N // 2.
        ratio: the critical token ratio.
        partition: whether protected tokens are set aside before the split or blocked after it.
    """
    count = metric.shape[1]
    number = 0 if importance is None else protected_count(count, remove, ratio)
    if importance is None or number == 0:
        return Parts(*alternate(every(metric)))
    protected = topk_indices(importance, number)
    if partition == "unprotected":
        return Parts(*alternate(complement(protected, count)))
    blocked = torch.zeros(metric.shape[:2], dtype=torch.bool, device=metric.device)
    blocked = blocked.scatter(1, protected, torch.ones_like(protected, dtype=torch.bool))
    return Parts(*alternate(every(metric)), blocked)
