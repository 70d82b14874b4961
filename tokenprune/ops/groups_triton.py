"""Triton: sums and means of groups of rows, whose members every program looks for itself.

A group is a row of the answer. Rows in front of the tokens are groups of one. No sort comes first
and nothing is added atomically.
"""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

import triton
import triton.language as tl


@triton.jit
def group_sums(
    value_ptr, col, slot_ptr, mine, ahead, length,
    WEIGHED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Sums over the members of the groups `mine`, of sizes of rows or of weights of tokens."""
    sums = tl.zeros([BLOCK_M], tl.float32)
    for start in range(0, length, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        member = _groups(slot_ptr, rows, ahead, length)[None, :] == mine[:, None]
        value = _values(value_ptr, rows, ahead, rows < length, col, WEIGHED)
        sums += tl.sum(tl.where(member, value[None, :], 0.0), 1)
    return sums


@triton.jit
def group_means(
    x_ptr, x_row, x_col, value_ptr, col, slot_ptr, total, mine, dims, ahead, length, width,
    WEIGHED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Means of the members of the groups `mine`, added up in the order of the rows."""
    mean = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(0, length, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        member = _groups(slot_ptr, rows, ahead, length)[None, :] == mine[:, None]
        row = tl.min(tl.where(member, rows[None, :], length), 1)
        # each turn adds the next member of every group that has another in this block
        while tl.min(row, 0) < length:
            found = row < length
            # The share, not the weight, scales a row: w / w is exactly 1, (w * x) / w isn't x.
            share = tl.div_rn(_values(value_ptr, row, ahead, found, col, WEIGHED), total)
            at = x_ptr + row.to(tl.int64)[:, None] * x_row + dims.to(tl.int64)[None, :] * x_col
            x = tl.load(at, mask=found[:, None] & (dims < width)[None, :], other=0.0)
            mean = tl.where(found[:, None], mean + share[:, None] * x.to(tl.float32), mean)
            later = member & (rows[None, :] > row[:, None])
            row = tl.min(tl.where(later, rows[None, :], length), 1)
    return mean


@triton.jit
def _groups(slot_ptr, rows, ahead, length):
    """The groups of some rows; -1 for rows outside."""
    token = rows - ahead
    slot = tl.load(slot_ptr + token, mask=(token >= 0) & (rows < length), other=0).to(tl.int32)
    return tl.where(rows < length, tl.where(token < 0, rows, slot + ahead), -1)


@triton.jit
def _values(ptr, rows, ahead, inside, col, WEIGHED: tl.constexpr):
    """Sizes, which every row has, or weights, which tokens have; a row in front weighs 1."""
    if WEIGHED:
        token = rows - ahead
        value = tl.load(ptr + token.to(tl.int64) * col, mask=inside & (token >= 0), other=1.0)
    else:
        value = tl.load(ptr + rows.to(tl.int64) * col, mask=inside, other=0.0)
    return value.to(tl.float32)
