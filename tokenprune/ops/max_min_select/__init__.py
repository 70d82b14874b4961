"""Tokens far from each other: each pick is the one farthest from all picks before it."""

from typing import Any

import torch
from torch import Tensor

from tokenprune.ops.checks import require_rows
from tokenprune.ops.picks import require_count, require_square
from tokenprune.ops.registering import operation


def max_min_select(distance: Tensor, k: int, *, gain: Tensor | None = None) -> Tensor:
    """Greedy answer to the max-min diversity problem.

    The first pick is the token whose nearest other token is farthest away. Every further pick is
    the token `j` with the largest `gain[j] * min_i distance[i, j]` over the tokens `i` picked so
    far. The minimum runs along from pick to pick, which gives the same bits as taking it anew.

    Args:
        distance: `[B, N, N]`, from a pick (row) to a candidate (column), compared in float32. The
            diagonal is not read.
        k: how many to pick, 0..N.
        gain: `[B, N]` factors on the candidates' distances.

    Returns:
        int64 `[B, k]`, in the order of picking, without repetition: the first `m` columns are the
        answer for `m`. Ties go to the lower index. NaN counts as less than everything. Carries no
        gradient.

    Raises:
        ValueError: the shapes don't fit or `k` is out of range.

    Source: DivPrune (arXiv 2503.02175, section 3.2) with the distance 1 - cosine. Factors: FlashVID
    (arXiv 2602.08024). That a pick can't repeat is ours.
    """
    require_square("distance", distance)
    require_count(k, distance.shape[1])
    require_rows("gain", gain, *distance.shape[:2])
    index: Tensor = max_min_select_op(distance, k, gain)
    return index


def _flops(distance: torch.Size, k: int, gain: torch.Size | None = None, *_: Any, **__: Any) -> int:
    # a comparison for each token and pick takes none, a factor one
    batch, tokens = distance[:2]
    return 0 if gain is None else batch * tokens * k


@operation("max_min_select", flops=_flops)
def max_min_select_op(distance: Tensor, k: int, gain: Tensor | None) -> Tensor:
    """The registered operation, declared by its answer; `max_min_select` checks its arguments."""
    return distance.new_empty((distance.shape[0], k), dtype=torch.int64)
