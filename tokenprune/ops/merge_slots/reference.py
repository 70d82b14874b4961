"""Plain torch: tokens that stay are numbered, the others take their target's number."""

from torch import Tensor, searchsorted

from tokenprune.ops.constants import numbers


def merge_slots(source: Tensor, target: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """See `tokenprune.ops.merge_slots`."""
    batch, merged = source.shape
    left = count - merged
    own = numbers(count, source.device)
    own = own.view(1, count) if batch == 1 else own.expand(batch, count)
    into = own.scatter(1, source, target)
    # counted through the whole batch, of which every sample keeps as many
    rank = (into == own).view(-1).cumsum(0).view(batch, count)
    nth = numbers(batch * left + 1, source.device)
    # the n-th token that stays stands where the rank first reaches n
    anchor = searchsorted(rank, nth[1:].view(batch, left))
    return anchor, rank.gather(1, into).add_(nth[1::left, None], alpha=-1)
