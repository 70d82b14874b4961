"""Plain torch: tokens that stay are numbered, the others take their target's number."""

import torch
from torch import Tensor


def merge_slots(source: Tensor, target: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """See `tokenprune.ops.merge_slots`."""
    batch, merged = source.shape
    stays = source.new_ones((batch, count)).scatter_(1, source, 0)
    rank = stays.cumsum(dim=1)
    # the n-th token that stays stands where the rank first reaches n
    nth = torch.arange(1, count - merged + 1, device=source.device).expand(batch, -1)
    anchor = torch.searchsorted(rank, nth.contiguous())
    slot = rank.sub_(1)
    return anchor, slot.scatter_(1, source, slot.gather(1, target))
