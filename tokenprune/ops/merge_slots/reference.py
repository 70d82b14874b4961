"""Plain torch: tokens that stay are numbered, the others take their target's number."""

import torch
from torch import Tensor

from tokenprune.ops.constants import numbers


def merge_slots(source: Tensor, target: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """See `tokenprune.ops.merge_slots`."""
    batch, merged = source.shape
    left = count - merged
    stays = source.new_ones((batch, count)).scatter_(1, source, 0)
    # counted through the whole batch, of which every sample keeps as many
    rank = stays.view(-1).cumsum(0).view(batch, count)
    nth = numbers(batch * left + 1, source.device)
    # the n-th token that stays stands where the rank first reaches n
    anchor = torch.searchsorted(rank, nth[1:].view(batch, left))
    slot = rank.sub_(nth[1::left, None])
    return anchor, slot.scatter_(1, source, slot.gather(1, target))
