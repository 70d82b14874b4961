"""Plain torch: the numbers 0, 1, ... are put where the kept tokens stand."""

import torch
from torch import Tensor

from tokenprune.ops.constants import numbers


def keep_slots(index: Tensor, count: int) -> Tensor:
    """See `tokenprune.ops.keep_slots`."""
    batch, kept = index.shape
    order = numbers(kept, index.device).expand(batch, kept)
    slot = index.new_full((batch, count), -1, dtype=torch.int64)
    return slot.scatter_(1, index, order)
