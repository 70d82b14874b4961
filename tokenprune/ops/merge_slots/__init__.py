"""Where every token goes in a merge, and which tokens stay."""

from torch import Tensor

from tokenprune.ops.checks import require
from tokenprune.ops.registering import nothing, operation


def merge_slots(source: Tensor, target: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Slots of a merge of tokens `source` into tokens `target`; the others stay as they are.

    Args:
        source: int64 `[B, r]`, every token once and none of them a target.
        target: int64 `[B, r]`.
        count: tokens N of every sample.

    Returns:
        The tokens that stay, int64 `[B, N - r]`, ascending, and the slot of every token among them,
        int64 `[B, N]`: its own, or its target's.

    Raises:
        ValueError: the shapes don't fit.
    """
    shape = source.shape
    require(shape == target.shape, "source {} and target don't fit together", shape)
    require(shape[1] <= count, "{} tokens can't merge where there are {}", shape[1], count)
    anchor, slot = merge_slots_op(source, target, count)
    return anchor, slot


@operation("merge_slots", flops=nothing)
def merge_slots_op(source: Tensor, target: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The registered operation, declared by its answer; `merge_slots` checks its arguments."""
    batch, merged = source.shape
    return source.new_empty((batch, count - merged)), source.new_empty((batch, count))
