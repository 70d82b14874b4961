"""Clusters of the best of the dropped tokens, and how many of them a budget holds."""

from __future__ import annotations

from torch import Tensor

from tokenprune.errors import BudgetError
from tokenprune.ops import cluster_dpc, merge_compact, take
from tokenprune_strategies.shared.assembly import Made

_SHARE, _PER_CLUSTER = 0.3, 10
"""Of the dropped tokens, and tokens of a cluster: the code's."""


def recycled(dropped: int) -> int:
    """Tokens that go into clusters, of so many dropped ones."""
    return int(dropped * _SHARE) + 1


def clusters(dropped: int) -> int:
    """Clusters that these tokens form."""
    return recycled(dropped) // _PER_CLUSTER + 1


def kept_of(count: int, keep: int, where: str = "") -> int:
    """Tokens that stay as they are, so that with the clusters of the others `keep` are left.

    Where two numbers do, the larger one (as in the code's lists).

    Args:
        count: tokens that arrive.
        keep: tokens that leave, fewer than arrive.
        where: what errors name.

    Raises:
        BudgetError: the clusters alone are more; carries the least number.
    """
    least = clusters(count)
    if keep < least:
        raise BudgetError(
            f"what is recycled of {count} tokens alone are {least}.",
            where=where,
            remedy=f"Keep at least {least}, or use recycle: false.",
            nearest=least,
        )
    return next(kept for kept in range(keep, -1, -1) if kept + clusters(count - kept) == keep)


def recycle(hidden: Tensor, dropped: Tensor) -> Made:
    """Means of the clusters of the first of the dropped tokens.

    Args:
        hidden: `[B, N, D]`.
        dropped: `[B, d]` the best first.
    """
    count = clusters(dropped.shape[1])
    member = dropped[:, : recycled(dropped.shape[1])]
    states = take(hidden.float(), member)
    centre, joins = cluster_dpc(states, count, neighbours=count)
    alike = states.new_ones(joins.shape)
    return Made(merge_compact(states, joins, alike, count), member.gather(1, centre), member, joins)
