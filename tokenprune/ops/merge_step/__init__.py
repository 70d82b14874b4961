"""Everything that a merge changes, in one operation."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokenprune.ops.checks import require, require_rows
from tokenprune.ops.registering import operation
from tokenprune.ops.riders import keep_riders, require_riders, riders_back


class Merged(NamedTuple):
    """What a merge leaves of tokens and of what rides along.

    Attributes:
        hidden: `[B, P + K, D]` weighted means, in the type of the states; a token alone comes out
            bit-identical, and so do the tokens in front.
        size: `[B, P + K]` float32, sums.
        bias: `[B, P + K]`, their logarithm in the type of the states: what later blocks add to key
            logits.
        place: `[B, K]` index of the tokens that stay.
        riders: `[B, K, ...]` of the tokens that stay.
    """

    hidden: Tensor
    size: Tensor
    bias: Tensor
    place: Tensor
    riders: tuple[Tensor, ...]


def merge_step(
    hidden: Tensor,
    slot: Tensor,
    anchor: Tensor,
    size: Tensor,
    index: Tensor,
    *,
    weight: Tensor | None = None,
    riders: Sequence[Tensor] = (),
) -> Merged:
    """Carry out a merge that drops no token. Differentiable in `hidden` and `riders`.

    Args:
        hidden: `[B, P + N, D]`; the P tokens in front stay as they are.
        slot: int64 `[B, N]` in 0..K-1, see `merge_slots`.
        anchor: int64 `[B, K]` tokens that stay, ascending.
        size: float32 `[B, P + N]`, whole numbers of patches; 1 in front.
        index: int64 `[B, N]`, places.
        weight: `[B, N]`, non-negative, of every token in its slot's mean; None for its size.
        riders: each `[B, N, ...]`, of any type.

    Raises:
        ValueError: the shapes don't fit.

    Source: the size-weighted mean of ToMe (arXiv 2210.09461, section 3).
    """
    batch, tokens = slot.shape
    rows = hidden.shape[1]
    require(hidden.shape[0] == batch, "hidden must be of {} samples", batch)
    require(rows >= tokens, "hidden must have at least {} tokens, not {}", tokens, rows)
    require_rows("size", size, batch, rows)
    require_rows("index", index, batch, tokens)
    require_rows("weight", weight, batch, tokens)
    require(anchor.shape[0] == batch, "anchor must be of {} samples", batch)
    require_riders(riders, batch, tokens)
    states, sizes, bias, places, *carried = merge_step_op(
        hidden, slot, anchor, size, index, weight, list(riders)
    )
    return Merged(states, sizes, bias, places, tuple(carried))


def _flops(hidden: torch.Size, *_: Any, **__: Any) -> int:
    batch, rows, width = hidden
    return 2 * batch * rows * width


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    hidden, slot, anchor, size, _, weight, riders = inputs
    ahead = hidden.shape[1] - slot.shape[1]
    ctx.save_for_backward(slot, anchor, size[:, ahead:] if weight is None else weight)
    ctx.ahead = ahead
    keep_riders(ctx, riders)


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    slot, anchor, weight = ctx.saved_tensors
    grad, ahead = grads[0], ctx.ahead
    total = weight.new_zeros(anchor.shape).scatter_add(1, slot, weight)
    share = weight / total.clamp(min=torch.finfo(total.dtype).tiny).gather(1, slot)
    apart = grad[:, ahead:].gather(1, slot[..., None].expand(-1, -1, grad.shape[2]))
    back = torch.cat((grad[:, :ahead], (apart * share[..., None]).to(grad.dtype)), dim=1)
    return back, None, None, None, None, None, riders_back(ctx, grads[4:], anchor)


@operation("merge_step", flops=_flops, gradient=(_backward, _keep_for_backward))
def merge_step_op(
    hidden: Tensor,
    slot: Tensor,
    anchor: Tensor,
    size: Tensor,
    index: Tensor,
    weight: Tensor | None,
    riders: list[Tensor],
) -> list[Tensor]:
    """The registered operation, declared by its answer; `merge_step` checks its arguments."""
    batch, kept = anchor.shape
    rows = hidden.shape[1] - slot.shape[1] + kept
    return [
        hidden.new_empty((batch, rows, hidden.shape[2])),
        size.new_empty((batch, rows), dtype=torch.float32),
        hidden.new_empty((batch, rows)),
        *(value.new_empty((batch, kept, *value.shape[2:])) for value in (index, *riders)),
    ]
