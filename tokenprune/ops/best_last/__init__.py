"""Setting the best tokens apart from all others."""

from typing import Any

import torch
from torch import Tensor

from tokenprune.ops.checks import require
from tokenprune.ops.dispatch import run
from tokenprune.ops.registering import fake, flops, operation, without_gradient


def best_last(score: Tensor, number: int) -> Tensor:
    """All indices, those of the `number` best scores behind the others.

    The others are ascending, these best first. Ties count the lower index as better, and NaN counts
    as better than everything, as in `torch.sort`.

    Args:
        score: `[B, N]`, of a float type.
        number: how many stand behind the others, 0..N.

    Returns:
        int64 `[B, N]`.

    Raises:
        ValueError: `number` is out of range.
    """
    tokens = score.shape[1]
    require(0 <= number <= tokens, "number must be in 0..{}, not {}", tokens, number)
    order: Tensor = best_last_op(score, number)
    return order


@operation("best_last")
def best_last_op(score: Tensor, number: int) -> Tensor:
    """The registered operation; `best_last` checks its arguments."""
    order: Tensor = run("best_last", score, number)
    return order


@fake("best_last")
def _fake(score: Tensor, number: int) -> Tensor:
    return score.new_empty(score.shape, dtype=torch.int64)


@flops("best_last")
def _flops(*_: Any, **__: Any) -> int:
    return 0


without_gradient("best_last")
