"""Where every token goes where some are kept and the others dropped."""

import torch
from torch import Tensor

from tokenprune.ops.checks import require
from tokenprune.ops.registering import nothing, operation


def keep_slots(index: Tensor, count: int) -> Tensor:
    """The slot of every token: its number among those at `index`, or -1.

    Args:
        index: int64 `[B, K]`, tokens that are kept, each once.
        count: tokens N of every sample.

    Returns:
        int64 `[B, N]`.

    Raises:
        ValueError: more tokens are kept than there are.
    """
    kept = index.shape[1]
    require(kept <= count, "{} tokens can't be kept where there are {}", kept, count)
    slot: Tensor = keep_slots_op(index, count)
    return slot


@operation("keep_slots", flops=nothing)
def keep_slots_op(index: Tensor, count: int) -> Tensor:
    """The registered operation, declared by its answer; `keep_slots` checks its arguments."""
    return index.new_empty((index.shape[0], count), dtype=torch.int64)
