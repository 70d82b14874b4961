"""Setting the best tokens apart from all others."""

import torch
from torch import Tensor

from tokenprune.ops.checks import require
from tokenprune.ops.registering import nothing, operation


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


@operation("best_last", flops=nothing)
def best_last_op(score: Tensor, number: int) -> Tensor:
    """The registered operation, declared by its answer; `best_last` checks its arguments."""
    return score.new_empty(score.shape, dtype=torch.int64)
