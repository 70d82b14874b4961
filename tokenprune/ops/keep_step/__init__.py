"""Everything that dropping tokens changes, in one operation."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokenprune.ops.checks import require, require_rows
from tokenprune.ops.registering import nothing, operation
from tokenprune.ops.riders import keep_riders, require_riders, riders_back


class Kept(NamedTuple):
    """What is left of tokens, and of what rides along, where the others are dropped.

    Attributes:
        hidden: `[B, P + K, D]`, copies.
        size: `[B, P + K]`, of the tokens that stay; patches that were dropped leave the sum.
        place: `[B, K]` index of the tokens that stay.
        riders: `[B, K, ...]` of the tokens that stay.
    """

    hidden: Tensor
    size: Tensor
    place: Tensor
    riders: tuple[Tensor, ...]


def keep_step(
    hidden: Tensor,
    anchor: Tensor,
    size: Tensor,
    index: Tensor,
    *,
    riders: Sequence[Tensor] = (),
) -> Kept:
    """Keep some tokens and drop the others. Differentiable in `hidden` and `riders`.

    Args:
        hidden: `[B, P + N, D]`; the P tokens in front stay.
        anchor: int64 `[B, K]` tokens that stay, in 0..N-1.
        size: `[B, P + N]`.
        index: `[B, N]`, places.
        riders: each `[B, N, ...]`, of any type.

    Raises:
        ValueError: the shapes don't fit.
    """
    batch, tokens = index.shape
    rows = hidden.shape[1]
    require(hidden.shape[0] == batch, "hidden must be of {} samples", batch)
    require(rows >= tokens, "hidden must have at least {} tokens, not {}", tokens, rows)
    require(anchor.shape[0] == batch, "anchor must be of {} samples", batch)
    require_rows("size", size, batch, rows)
    require_riders(riders, batch, tokens)
    states, sizes, places, *carried = keep_step_op(hidden, anchor, size, index, list(riders))
    return Kept(states, sizes, places, tuple(carried))


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    hidden, anchor, _, index, riders = inputs
    ctx.save_for_backward(anchor)
    ctx.ahead, ctx.shape = hidden.shape[1] - index.shape[1], hidden.shape
    keep_riders(ctx, riders)


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    (anchor,) = ctx.saved_tensors
    grad, ahead = grads[0], ctx.ahead
    sample = torch.arange(len(anchor), device=anchor.device)[:, None]
    back = grad.new_zeros(ctx.shape).index_put((sample, anchor + ahead), grad[:, ahead:])
    back[:, :ahead] = grad[:, :ahead]
    return back, None, None, None, riders_back(ctx, grads[3:], anchor)


@operation("keep_step", flops=nothing, gradient=(_backward, _keep_for_backward))
def keep_step_op(
    hidden: Tensor, anchor: Tensor, size: Tensor, index: Tensor, riders: list[Tensor]
) -> list[Tensor]:
    """The registered operation, declared by its answer; `keep_step` checks its arguments."""
    batch, kept = anchor.shape
    rows = hidden.shape[1] - index.shape[1] + kept
    return [
        hidden.new_empty((batch, rows, hidden.shape[2])),
        size.new_empty((batch, rows)),
        *(value.new_empty((batch, kept, *value.shape[2:])) for value in (index, *riders)),
    ]
