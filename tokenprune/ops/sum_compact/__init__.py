"""Adding up per-token numbers, such as sizes, along a merge."""

from typing import Any

import torch
from torch import Tensor

from tokenprune.ops.checks import require, require_rows
from tokenprune.ops.registering import operation


def sum_compact(values: Tensor, slot: Tensor, length: int) -> Tensor:
    """Plain sum of the values that share a slot. Differentiable in `values`.

    Args:
        values: `[B, N]`.
        slot: int64 `[B, N]` in 0..length-1; values with any other slot, such as -1, are dropped.
        length: number of slots.

    Returns:
        `[B, length]`, float32 (float64 for float64 values), so that counts stay exact even if
        `values` are of half precision. Empty slots are 0.

    Raises:
        ValueError: the shapes don't fit.
    """
    require_rows("slot", slot, *values.shape)
    require(length >= 0, "length must not be negative, not {}", length)
    summed: Tensor = sum_compact_op(values, slot, length)
    return summed


def _flops(values: torch.Size, *_: Any, **__: Any) -> int:
    return values[0] * values[1]


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, slot, length = inputs
    ctx.save_for_backward(slot)
    ctx.length, ctx.dtype = length, values.dtype


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (slot,) = ctx.saved_tensors
    if ctx.length == 0:
        return grad.new_zeros(slot.shape, dtype=ctx.dtype), None, None
    kept = (slot >= 0) & (slot < ctx.length)
    return grad.gather(1, slot.where(kept, 0)).where(kept, 0.0).to(ctx.dtype), None, None


@operation("sum_compact", flops=_flops, gradient=(_backward, _keep_for_backward))
def sum_compact_op(values: Tensor, slot: Tensor, length: int) -> Tensor:
    """The registered operation, declared by its answer; `sum_compact` checks its arguments."""
    kind = torch.promote_types(torch.float32, values.dtype)
    return values.new_empty((values.shape[0], length), dtype=kind)
