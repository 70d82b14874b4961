"""Triton: tokens sorted by slot, one program adding up each slot in order, without atomics."""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.launching import ceil_div, padded


@triton.jit
def _merge_kernel(
    x_ptr, order_ptr, bound_ptr, weight_ptr, out_ptr, tokens, length, width,
    x_batch, x_row, x_col, BLOCK_D: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64)
    batch, slot = place // length, place % length
    dims = tl.program_id(1).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    first = tl.load(bound_ptr + batch * (length + 1) + slot)
    last = tl.load(bound_ptr + batch * (length + 1) + slot + 1)
    total = 0.0
    for i in range(first, last):
        token = tl.load(order_ptr + batch * tokens + i)
        total += tl.load(weight_ptr + batch * tokens + token)
    inverse_of = tl.where(total != 0.0, total, 1.0)
    sums = tl.zeros([BLOCK_D], tl.float32)
    for i in range(first, last):
        token = tl.load(order_ptr + batch * tokens + i)
        weight = tl.load(weight_ptr + batch * tokens + token)
        # w / w is exactly 1, so a token alone in its slot comes out unchanged.
        share = tl.where(total != 0.0, weight / inverse_of, 0.0)
        at = x_ptr + batch * x_batch + token * x_row + dims * x_col
        sums += share * tl.load(at, mask=dims < width, other=0.0).to(tl.float32)
    tl.store(out_ptr + place * width + dims, sums, mask=dims < width)


def merge_compact(x: Tensor, slot: Tensor, weight: Tensor, length: int) -> Tensor:
    """See `tokenprune.ops.merge_compact`."""
    batch, tokens, width = x.shape
    out = torch.empty((batch, length, width), device=x.device, dtype=x.dtype)
    if out.numel() == 0:
        return out
    ordered, order = torch.sort(slot.long(), dim=1, stable=True)
    slots = torch.arange(length + 1, device=x.device).expand(batch, -1).contiguous()
    bounds = torch.searchsorted(ordered, slots)
    block = padded(width, 16, 1024)
    _merge_kernel[(batch * length, ceil_div(width, block))](
        x, order, bounds, weight.to(torch.float32).contiguous(), out, tokens, length, width,
        *x.stride(), BLOCK_D=block,
    )  # fmt: skip
    return out
