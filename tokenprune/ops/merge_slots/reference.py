"""Plain torch: tokens that stay are sorted to the front, every token is looked up among them."""

from torch import Tensor, searchsorted

from tokenprune.ops.constants import numbers


def merge_slots(source: Tensor, target: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """See `tokenprune.ops.merge_slots`."""
    batch, merged = source.shape
    own = numbers(count, source.device)
    own = own.view(1, count) if batch == 1 else own.expand(batch, count)
    # sources stand behind all others, where no token is looked for
    ranked = own.scatter(1, source, count).sort(dim=1)[0]
    anchor = ranked[:, : count - merged].contiguous()
    return anchor, searchsorted(ranked, own.scatter(1, source, target))
