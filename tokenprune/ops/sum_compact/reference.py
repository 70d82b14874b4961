"""Plain torch: add each value to its slot."""

import torch
from torch import Tensor

from tokenprune.ops.merge_compact.reference import add_rows, slot_rows


def sum_compact(values: Tensor, slot: Tensor, length: int) -> Tensor:
    """See `tokenprune.ops.sum_compact`."""
    batch = values.shape[0]
    parts = values.to(torch.promote_types(torch.float32, values.dtype)).reshape(-1)
    sums = add_rows(parts.new_zeros(batch * (length + 1)), slot_rows(slot, length), parts)
    return sums.view(batch, length + 1)[:, :length].contiguous()
