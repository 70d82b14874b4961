"""Merging tokens into fewer by weighted means."""

from typing import Any

import torch
from torch import Tensor

from tokenprune.ops.checks import require, require_rows
from tokenprune.ops.registering import operation


def merge_compact(x: Tensor, slot: Tensor, weight: Tensor, length: int) -> Tensor:
    """Weighted mean of the tokens that share a slot: `out[s] = sum w x / sum w`.

    A token alone in its slot comes out bit-identical. Empty slots and slots of total weight 0 are
    zeros. Differentiable in `x` and `weight`.

    Args:
        x: `[B, N, D]`.
        slot: int64 `[B, N]` in 0..length-1; tokens with any other slot, such as -1, are dropped.
        weight: `[B, N]`, non-negative, for example token sizes.
        length: number of slots.

    Returns:
        `[B, length, D]` in the type of `x`; accumulated in float32.

    Raises:
        ValueError: the shapes don't fit.

    Source: the size-weighted mean of ToMe (arXiv 2210.09461).
    """
    batch, tokens, _ = x.shape
    require_rows("slot", slot, batch, tokens)
    require_rows("weight", weight, batch, tokens)
    require(length >= 0, "length must not be negative, not {}", length)
    merged: Tensor = merge_compact_op(x, slot, weight, length)
    return merged


def _flops(x: torch.Size, *_: Any, **__: Any) -> int:
    batch, tokens, width = x
    return 2 * batch * tokens * width


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, slot, weight, length = inputs
    ctx.save_for_backward(x, slot, weight, output)
    ctx.length = length


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
    x, slot, weight, out = ctx.saved_tensors
    if ctx.length == 0:
        return torch.zeros_like(x), None, torch.zeros_like(weight), None
    kind = torch.promote_types(torch.float32, x.dtype)
    kept = (slot >= 0) & (slot < ctx.length)
    at = slot.where(kept, 0)
    w = weight.to(kind).where(kept, 0.0)
    total = w.new_zeros(w.shape[0], ctx.length).scatter_add(1, at, w).gather(1, at)
    inverse = torch.where(kept & (total != 0), 1.0 / total.where(total != 0, 1.0), 0.0)
    rows = at[..., None].expand_as(x)
    incoming = grad.to(kind).gather(1, rows)
    grad_x = grad_w = None
    if ctx.needs_input_grad[0]:
        grad_x = (incoming * (w * inverse)[..., None]).to(x.dtype)
    if ctx.needs_input_grad[2]:
        apart = x.to(kind) - out.to(kind).gather(1, rows)
        grad_w = ((incoming * apart).sum(-1) * inverse).to(weight.dtype)
    return grad_x, None, grad_w, None


@operation("merge_compact", flops=_flops, gradient=(_backward, _keep_for_backward))
def merge_compact_op(x: Tensor, slot: Tensor, weight: Tensor, length: int) -> Tensor:
    """The registered operation, declared by its answer; `merge_compact` checks its arguments."""
    return x.new_empty((x.shape[0], length, x.shape[2]))
