"""Bipartite soft matching: every token of one half proposes its best partner in the other.

Source: ToMe (arXiv 2210.09461, section 3); EvoPrune (arXiv 2603.03681, section 3.3) keeps the
scheme and changes the score.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from tokenprune.errors import BudgetError
from tokenprune.ops import bipartite_match, take, topk_indices


class Pairs(NamedTuple):
    """Tokens `source` that merge into tokens `target`, both `[B, r]`; the sets are disjoint."""

    source: Tensor
    target: Tensor


def alternate(order: Tensor) -> tuple[Tensor, Tensor]:
    """What stands in even and in odd places of `[B, M, ...]`."""
    return order[:, 0::2], order[:, 1::2]


def best_pairs(
    metric: Tensor,
    halves: tuple[Tensor, Tensor] | None,
    remove: int,
    *,
    gain: Tensor | None = None,
    blocked: Tensor | None = None,
    squash: bool = False,
) -> Pairs:
    """The `remove` best of all proposals; several sources may share a target.

    `score[i, j] = sim(i, j) * gain_i * gain_j`, -inf if `i` or `j` is blocked. If fewer than
    `remove` unblocked proposals exist, all of these are taken and the best of the others follow
    (ours: it keeps the count exact). Ties go to the lower index.

    Args:
        metric: `[B, N, D]`, what similarity is measured on (cosine).
        halves: indices of the proposing and of the chosen tokens, `[B, Na]` and `[B, Nb]`; None
            for all tokens in even and in odd places, which need no index.
        remove: number of pairs r, at most Na.
        gain: `[B, N]` positive factors.
        blocked: `[B, N]` bool, tokens that should not take part.
        squash: use `(1 + cos) / 2` as similarity.

    Returns:
        The pairs, sources ascending.
    """
    a, b = _both(metric, halves)
    gain_a, gain_b = (None, None) if gain is None else _both(gain, halves)
    match = partial(bipartite_match, a, b, gain_a=gain_a, gain_b=gain_b, squash=squash)
    unblocked = None
    if blocked is not None:
        block_a, block_b = _both(blocked, halves)
        unblocked = match(block_a=block_a, block_b=block_b)
    chosen, mate = best_proposals(match(), unblocked, remove)
    partner = mate.gather(1, chosen)
    if halves is None:
        return Pairs(2 * chosen, 2 * partner + 1)
    return Pairs(halves[0].gather(1, chosen), halves[1].gather(1, partner))


def _both(values: Tensor, halves: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Values `[B, N, ...]` of the proposing and of the chosen tokens."""
    if halves is None:
        return alternate(values)
    return take(values, halves[0]), take(values, halves[1])


def best_proposals(
    every: tuple[Tensor, Tensor], unblocked: tuple[Tensor, Tensor] | None, remove: int
) -> tuple[Tensor, Tensor]:
    """Which tokens propose, and the partner of each of all.

    Args:
        every: score and partner of every token's best proposal, `[B, Na]` each.
        unblocked: the same without blocked tokens, -inf for no proposal; None if none is blocked.
        remove: number of proposals r to take, unblocked ones first.

    Returns:
        The proposing tokens `[B, r]`, ascending, and all tokens' partners `[B, Na]`.
    """
    value, mate = every
    if unblocked is None:
        return topk_indices(value, remove), mate
    free_value, free_mate = unblocked
    free = free_value > -torch.inf
    mate = torch.where(free, free_mate, mate)
    return _best_free_first(torch.where(free, free_value, value), free, remove), mate


def _best_free_first(value: Tensor, free: Tensor, count: int) -> Tensor:
    order = torch.sort(value, dim=1, descending=True, stable=True).indices
    # The second sort is stable, so the order by value holds among the free and among the others.
    first = torch.sort(free.gather(1, order).to(torch.int8), dim=1, descending=True, stable=True)
    return order.gather(1, first.indices[:, :count]).sort(dim=1).values


def require_half(count: int, remove: int, where: str) -> None:
    """Refuse to remove more than half of the tokens at once.

    Raises:
        BudgetError: a bipartite step can't remove so many; carries the nearest kept count.
    """
    least = count - count // 2
    if remove > count // 2:
        raise BudgetError(
            f"merging {count} tokens in pairs can't remove {remove} of them at once.",
            where=where,
            remedy=f"Keep at least {least} here, or spread the merges over more blocks.",
            nearest=least,
        )
