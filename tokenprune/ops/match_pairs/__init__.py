"""Which tokens merge into which: one matrix of cosines, everything else is read from it."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokenprune.ops.checks import require, require_rows
from tokenprune.ops.dispatch import run
from tokenprune.ops.registering import operation


class Diversity(NamedTuple):
    """How tokens of sparse regions are spared: a pair's score is scaled by `exp(-w (d_i + d_j))`.

    `d` in 0..1 is `knn_density`, large for tokens that stand apart.

    Attributes:
        weight: w, positive.
        neighbours: nearest other tokens that make up the density.
        tau: width of its kernel; None takes it from each image.
    """

    weight: float
    neighbours: int
    tau: float | None


_PLAIN = Diversity(0.0, 1, None)
"""The cosine alone."""


def match_pairs(
    x: Tensor,
    remove: int,
    *,
    first: int = 0,
    order: Tensor | None = None,
    candidates: int | None = None,
    blocked: Tensor | None = None,
    diversity: Diversity | None = None,
    squash: bool = False,
) -> tuple[Tensor, Tensor]:
    """The `remove` best pairs of bipartite soft matching.

    Candidates propose and receive in turn. Every proposing one has the receiving one of highest
    score as its partner, and the best proposals are taken; several may share a partner. Ties go to
    the candidate that comes first.

    Args:
        x: `[B, N, D]` what similarity (cosine) is measured on, any float type; normalised in
            float32. A zero vector has cosine 0 to everything.
        remove: number of pairs r, at most that of proposing candidates.
        first: place of the first proposing candidate: 0 if the even ones propose, 1 if the odd.
        order: `[B, N]` all tokens, the candidates in front; None for the order of `x`.
        candidates: how many of `order` they are; None for all. Others count as neighbours only.
        blocked: bool `[B, N]`, tokens whose pairs come last; not beside `order`.
        diversity: how pairs of sparse regions are put back; None for the cosine alone.
        squash: use `(1 + cos) / 2`, which keeps the order of negative cosines under factors.

    Returns:
        Tokens that merge and the tokens that they merge into, int64 `[B, r]` each, best first.

    Raises:
        ValueError: the shapes don't fit, or there are fewer pairs.

    Source: bipartite soft matching of ToMe (arXiv 2210.09461, section 3) with the pair score of
    EvoPrune (arXiv 2603.03681, section 3.3).
    """
    batch, length, _ = x.shape
    number = length if candidates is None else candidates
    require(first in (0, 1), "first must be 0 or 1, not {}", first)
    require(0 <= number <= length, "candidates must be in 0..{}, not {}", length, number)
    pairs = (number + 1 - first) // 2 if number > 1 else 0
    require(0 <= remove <= pairs, "remove must be in 0..{}, not {}", pairs, remove)
    if order is not None or blocked is not None:
        require_rows("order", order, batch, length)
        require_rows("blocked", blocked, batch, length)
        require(order is None or blocked is None, "order and blocked can't be combined")
    weight, neighbours, tau = _PLAIN if diversity is None else diversity
    if weight != 0:
        require(weight > 0, "the weight of diversity must not be negative, not {}", weight)
        require(neighbours > 0, "neighbours must be positive, not {}", neighbours)
        require(tau is None or tau > 0, "tau must be positive, not {}", tau)
    source, target = match_pairs_op(
        x, remove, first, order, number, blocked, weight, neighbours, tau, squash
    )
    return source, target


def _flops(
    x: torch.Size,
    remove: int,
    first: int,
    order: torch.Size | None,
    candidates: int,
    blocked: torch.Size | None,
    weight: float,
    *_: Any,
    **__: Any,
) -> int:
    batch, length, width = x
    halves = (candidates // 2) * (candidates - candidates // 2)
    return 2 * batch * (length * length if weight > 0 else halves) * width


def _matched(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """The numbers of `Diversity` as one; None where it weighs nothing."""
    *plain, weight, neighbours, tau, squash = rest
    diversity = Diversity(weight, neighbours, tau) if weight > 0 else None
    source, target = run("match_pairs", x, *plain, diversity, squash)
    return source, target


@operation("match_pairs", flops=_flops, computes=_matched)
def match_pairs_op(
    x: Tensor,
    remove: int,
    first: int,
    order: Tensor | None,
    candidates: int,
    blocked: Tensor | None,
    weight: float,
    neighbours: int,
    tau: float | None,
    squash: bool,
) -> tuple[Tensor, Tensor]:
    """The registered operation, declared by its answer; `match_pairs` checks its arguments."""
    shape = (x.shape[0], remove)
    return x.new_empty(shape, dtype=torch.int64), x.new_empty(shape, dtype=torch.int64)
