"""Plain torch: rows are looked up, those in front of the tokens first."""

import torch
from torch import Tensor

from tokenprune.ops.constants import numbers
from tokenprune.ops.take import take


def keep_step(
    hidden: Tensor, anchor: Tensor, size: Tensor, index: Tensor, riders: list[Tensor]
) -> list[Tensor]:
    """See `tokenprune.ops.keep_step`."""
    batch, ahead, rows = anchor.shape[0], hidden.shape[1] - index.shape[1], anchor
    if ahead:
        front = numbers(ahead, anchor.device).expand(batch, ahead)
        rows = torch.cat((front, anchor + ahead), dim=1)
    states, sizes = take(hidden, rows).contiguous(), size.gather(1, rows)
    return [states, sizes, *(take(value, anchor).contiguous() for value in (index, *riders))]
