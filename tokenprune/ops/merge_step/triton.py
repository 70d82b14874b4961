"""Triton: every row that is left looks for its members among all rows, and adds them up in order.

Rows in front are groups of one. No sort comes first and nothing is added atomically.
"""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.rows_triton import copied_rows

_MANY = 4096  # rows of a batch that keep a GPU busy also where a program takes several (ours)


@triton.jit
def _groups(slot_ptr, rows, ahead, length):
    """The row, among those that are left, that some rows go to; -1 for rows outside."""
    token = rows - ahead
    slot = tl.load(slot_ptr + token, mask=(token >= 0) & (rows < length), other=0).to(tl.int32)
    return tl.where(rows < length, tl.where(token < 0, rows, slot + ahead), -1)


@triton.jit
def _weights(weight_ptr, rows, ahead, inside, col, WEIGHED: tl.constexpr):
    """What rows weigh in a mean; where weights are given, those are of tokens, and 1 in front."""
    if WEIGHED:
        token = rows - ahead
        at = weight_ptr + token.to(tl.int64) * col
        weight = tl.load(at, mask=inside & (token >= 0), other=1.0)
    else:
        weight = tl.load(weight_ptr + rows.to(tl.int64) * col, mask=inside, other=0.0)
    return weight.to(tl.float32)


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
    slot_ptr += batch * tokens
    weight_ptr += batch * weight_batch
    size = tl.zeros([BLOCK_M], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    for start in range(0, length, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        member = _groups(slot_ptr, rows, ahead, length)[None, :] == mine[:, None]
        each = _weights(size_ptr + batch * size_batch, rows, ahead, rows < length, size_col, False)
        size += tl.sum(tl.where(member, each[None, :], 0.0), 1)
        if WEIGHED:
            each = _weights(weight_ptr, rows, ahead, rows < length, weight_col, True)
            total += tl.sum(tl.where(member, each[None, :], 0.0), 1)
    # NaN isn't less, and stays.
    total = tl.where(total < LEAST, LEAST, total) if WEIGHED else size

    dims = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    x_at = x_ptr + batch * x_batch + dims.to(tl.int64)[None, :] * x_col
    mean = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(0, length, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        group = _groups(slot_ptr, rows, ahead, length)
        member = group[None, :] == mine[:, None]
        row = tl.min(tl.where(member, rows[None, :], length), 1)
        while tl.min(row, 0) < length:
            found = row < length
            # The share, not the weight, scales a row: w / w is exactly 1, (w * x) / w isn't x.
            each = _weights(weight_ptr, row, ahead, found, weight_col, WEIGHED)
            share = tl.div_rn(each, total)
            at = x_at + row.to(tl.int64)[:, None] * x_row
            x = tl.load(at, mask=found[:, None] & (dims < width)[None, :], other=0.0)
            mean = tl.where(found[:, None], mean + share[:, None] * x.to(tl.float32), mean)
            later = member & (rows[None, :] > row[:, None])
            row = tl.min(tl.where(later, rows[None, :], length), 1)
    place = batch * left + mine
    inside = (mine < left)[:, None] & (dims < width)[None, :]
    tl.store(out_ptr + place[:, None] * width + dims[None, :], mean, mask=inside)
    # one program of those that share rows writes the rest
    writes = (mine < left) & (tl.program_id(1) == 0)
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
    logs = torch.empty_like(sums)
    place = torch.empty((batch, kept), device=hidden.device, dtype=index.dtype)
    anchor = anchor.contiguous()
    if sums.numel():
        weighed = weight is not None
        each = weight if weighed else size
        rows = 4 if batch * left > _MANY else 1
        block = min(2048, max(16, triton.next_power_of_2(width)))
        grid = batch * triton.cdiv(left, rows), max(1, triton.cdiv(width, block))
        _merge_kernel[grid](
            hidden, slot.contiguous(), anchor, size, each, index, states, sums, logs, place,
            tokens, length - tokens, kept, width,
            *hidden.stride(), *size.stride(), *each.stride(), *index.stride(),
            WEIGHED=weighed, LEAST=torch.finfo(torch.float32).tiny,
            BLOCK_M=rows, BLOCK_N=min(1024, max(16, triton.next_power_of_2(length))), BLOCK_D=block,
            num_warps=8 if rows * block > 4096 else 4,
        )  # fmt: skip
    return [states, sums, logs, place, *(copied_rows(rider, anchor) for rider in riders)]
