"""The terms of EvoPrune's pair score, as pure functions.

Source: arXiv 2603.03681, sections 3.3 and 3.4.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tokenprune.ops import best_last, topk_indices


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


class Parts(NamedTuple):
    """Who may merge with whom: candidates propose and receive in turn, in raster order.

    Attributes:
        order: `[B, N]` all tokens, the candidates in front; None if all are, in their own order.
        candidates: how many they are.
        blocked: `[B, N]` bool, tokens that should take part only if the count needs them, or None.
    """

    order: Tensor | None
    candidates: int
    blocked: Tensor | None = None


def split(
    importance: Tensor | None,
    count: int,
    remove: int,
    *,
    ratio: float,
    partition: Literal["unprotected", "all"],
) -> Parts:
    """Set the protected tokens aside; the others are split into sources and targets.

    Args:
        importance: `[B, N]`; None protects nothing.
        count: tokens N.
        remove: number of pairs r, at most N // 2.
        ratio: the critical token ratio.
        partition: whether protected tokens are set aside before the split or blocked after it.
    """
    number = 0 if importance is None else protected_count(count, remove, ratio)
    if importance is None or number == 0:
        return Parts(None, count)
    if partition == "unprotected":
        return Parts(best_last(importance, number), count - number)
    protected = topk_indices(importance, number)
    blocked = torch.zeros_like(importance, dtype=torch.bool)
    return Parts(None, count, blocked.scatter(1, protected, True))
