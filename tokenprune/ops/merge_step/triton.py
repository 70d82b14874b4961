"""Triton: one launch for everything but riders; every row that is left looks for its members."""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.groups_triton import group_means, group_sums
from tokenprune.ops.launching import ceil_div, launch, padded
from tokenprune.ops.rows_triton import copied_rows

_MANY = 4096  # rows of a batch that keep a GPU busy also where a program takes several (ours)


# Lengths differ from site to site; a program for each kind of number would be compiled otherwise.
@triton.jit(
    do_not_specialize=["tokens", "ahead", "kept", "size_batch", "weight_batch", "index_batch"]
)
def _merge_kernel(
    x_ptr, slot_ptr, anchor_ptr, size_ptr, weight_ptr, index_ptr,
    out_ptr, sum_ptr, log_ptr, place_ptr, tokens, ahead, kept, width,
    x_batch, x_row, x_col, size_batch, size_col, weight_batch, weight_col, index_batch, index_col,
    WEIGHED: tl.constexpr, LEAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    length, left = ahead + tokens, ahead + kept
    programs = tl.cdiv(left, BLOCK_M)
    batch = (tl.program_id(0) // programs).to(tl.int64)
    mine = (tl.program_id(0) % programs) * BLOCK_M + tl.arange(0, BLOCK_M)
    dims = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    x_ptr += batch * x_batch
    slot_ptr += batch * tokens
    size_ptr += batch * size_batch
    weight_ptr += batch * weight_batch
    size = group_sums(size_ptr, size_col, slot_ptr, mine, ahead, length, False, BLOCK_M, BLOCK_N)
    total = size
    if WEIGHED:
        total = group_sums(
            weight_ptr, weight_col, slot_ptr, mine, ahead, length, True, BLOCK_M, BLOCK_N
        )
        # NaN isn't less, and stays.
        total = tl.where(total < LEAST, LEAST, total)
    # weight_ptr holds the sizes where no weights are given
    mean = group_means(
        x_ptr, x_row, x_col, weight_ptr, weight_col, slot_ptr, total, mine, dims,
        ahead, length, width, WEIGHED, BLOCK_M, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    place = batch * left + mine
    inside = (mine < left)[:, None] & (dims < width)[None, :]
    tl.store(out_ptr + place[:, None] * width + dims[None, :], mean, mask=inside)
    # One program of those that share rows writes the rest: a limit instead of a mask joined with a
    # scalar, which the interpreter of Triton 3.9 refuses.
    writes = mine < tl.where(tl.program_id(1) == 0, left, 0)
    tl.store(sum_ptr + place, size, mask=writes)
    tl.store(log_ptr + place, tl.log(size), mask=writes)
    writes = writes & (mine >= ahead)
    anchor = tl.load(anchor_ptr + batch * kept + mine - ahead, mask=writes, other=0)
    index = tl.load(index_ptr + batch * index_batch + anchor * index_col, mask=writes)
    tl.store(place_ptr + batch * kept + mine - ahead, index, mask=writes)


def merge_step(
    hidden: Tensor,
    slot: Tensor,
    anchor: Tensor,
    size: Tensor,
    index: Tensor,
    weight: Tensor | None,
    riders: list[Tensor],
) -> list[Tensor]:
    """See `tokenprune.ops.merge_step`."""
    batch, kept = anchor.shape
    _, length, width = hidden.shape
    tokens = slot.shape[1]
    left = length - tokens + kept
    states = torch.empty((batch, left, width), device=hidden.device, dtype=hidden.dtype)
    sums = torch.empty((batch, left), device=hidden.device, dtype=torch.float32)
    logs = torch.empty((batch, left), device=hidden.device, dtype=hidden.dtype)
    place = torch.empty((batch, kept), device=hidden.device, dtype=index.dtype)
    anchor = anchor.contiguous()
    if sums.numel():
        weighed = weight is not None
        each = weight if weighed else size
        rows = 4 if batch * left > _MANY else 1
        block = padded(width, 16, 2048)
        grid = batch * ceil_div(left, rows), max(1, ceil_div(width, block))
        _merge_kernel[grid](
            hidden, slot.contiguous(), anchor, size, each, index, states, sums, logs, place,
            tokens, length - tokens, kept, width,
            *hidden.stride(), *size.stride(), *each.stride(), *index.stride(),
            WEIGHED=weighed, LEAST=torch.finfo(torch.float32).tiny,
            BLOCK_M=rows, BLOCK_N=padded(length, 16, 1024), BLOCK_D=block,
            **launch(f"merge_step {rows}x{block}", {"num_warps": 8 if rows * block > 4096 else 4}),
        )  # fmt: skip
    return [states, sums, logs, place, *(copied_rows(rider, anchor) for rider in riders)]
