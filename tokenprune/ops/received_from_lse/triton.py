"""Triton: one pass over the columns of each head, then their means, weighed by the keys' sizes.

Programs share the queries of a column where one image has few columns, as many at any batch, so
that an image gets the same numbers in every batch. What a query gives is made of the few tokens
that are left out, in a pass over these alone.
"""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.heads_triton import (
    begin,
    bias_of,
    even,
    launch_size,
    mean_of_heads,
    multiple,
    rows_of,
)
from tokenprune.ops.launching import ceil_div, launch

_PROGRAMS = 256  # of one image, about two for each processor of a large GPU (ours)
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["span"])
def _column_kernel(
    q_ptr, k_ptr, lse_ptr, out_ptr, heads, group, length, width, skip, span, scale,
    q_batch, q_head, q_row, q_col, k_batch, k_head, k_row, k_col,
    EVEN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Of one head, the sums of some columns over `span` queries."""
    pair, _, q_ptr, k_ptr = begin(
        q_ptr, k_ptr, heads, group, q_batch, q_head, k_batch, k_head, EVEN
    )
    width = multiple(width, EVEN)
    cols = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    part = tl.program_id(2)
    k = rows_of(k_ptr, cols, length, width, k_row, k_col, BLOCK_D)
    # Rows of blocks are added first: a sum within a block waits for all warps.
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(part * span, tl.minimum(part * span + span, length), BLOCK_M):
        rows = (start + tl.arange(0, BLOCK_M)).to(tl.int64)
        q = rows_of(q_ptr, rows, length, width, q_row, q_col, BLOCK_D)
        lse = tl.load(lse_ptr + pair * length + rows, mask=rows < length, other=0.0)
        logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scale - lse[:, None]
        counted = (rows[:, None] < length) & (rows[:, None] >= skip)
        # `tl.exp` takes twice as many instructions, for weights below the least normal number.
        total += tl.exp2(tl.where(counted, logits, float("-inf")) * _LOG2_E)
    out_ptr += (pair * tl.num_programs(2) + part) * length
    tl.store(out_ptr + cols, tl.sum(total, 0), mask=cols < length)


@triton.jit(do_not_specialize=["length", "skip"])
def _given_kernel(
    q_ptr, k_ptr, lse_ptr, bias_ptr, out_ptr, heads, group, length, width, skip, scale,
    q_batch, q_head, q_row, q_col, k_batch, k_head, k_row, k_col,
    BIASED: tl.constexpr, EVEN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Of one head and some queries, the weights that are left, as a share of the keys."""
    pair, batch, q_ptr, k_ptr = begin(
        q_ptr, k_ptr, heads, group, q_batch, q_head, k_batch, k_head, EVEN
    )
    width = multiple(width, EVEN)
    rows = tl.program_id(1).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    q = rows_of(q_ptr, rows, length, width, q_row, q_col, BLOCK_D).to(tl.float32)
    lse = tl.load(lse_ptr + pair * length + rows, mask=rows < length, other=0.0)
    ahead = tl.zeros([BLOCK_M], tl.float32)
    for col in range(0, skip):
        k = tl.load(k_ptr + col * k_row + dims * k_col, mask=dims < width, other=0.0)
        bias = bias_of(bias_ptr + batch * length, col, col < length, 0.0, BIASED)
        ahead += tl.exp(tl.sum(q * k.to(tl.float32)[None, :], 1) * scale + bias - lse)
    given = (1.0 - ahead) / (length - skip)
    tl.store(out_ptr + pair * length + rows, given, mask=rows < length)


def received_from_lse(
    query: Tensor, key: Tensor, lse: Tensor, bias: Tensor | None, skip: int, given: bool
) -> list[Tensor]:
    """See `tokenprune.ops.received_from_lse`; what tokens give comes second."""
    batch, heads, length, width = query.shape
    if batch * heads == 0:
        shape = (batch, length - skip)
        return [query.new_zeros(shape, dtype=torch.float32) for _ in range(2 if given else 1)]
    if key.dtype != query.dtype:
        key = key.to(query.dtype)
    biased, lse = bias is not None, lse.float().contiguous()
    bias = bias.contiguous() if biased else lse
    size = launch_size("received_from_lse", width, query.element_size())
    blocks, span = _spans(heads, length, size["BLOCK_M"], size["BLOCK_N"])
    parts = ceil_div(length, span)
    sums = torch.empty((batch, heads, parts, length), device=query.device, dtype=torch.float32)
    group, strides = heads // key.shape[1], (*query.stride(), *key.stride())
    each = even(query, key)
    _column_kernel[(batch * heads, blocks, parts)](
        query, key, lse, sums, heads, group, length, width, skip, span, width**-0.5,
        *strides, EVEN=each, **size,
    )  # fmt: skip
    found = [mean_of_heads(sums, skip, length - skip, bias if biased else None)]
    if given:
        rows = torch.empty((batch, heads, 1, length), device=query.device, dtype=torch.float32)
        _given_kernel[(batch * heads, ceil_div(length, 64))](
            query, key, lse, bias, rows, heads, group, length, width, skip, width**-0.5,
            *strides, BIASED=biased, EVEN=each, BLOCK_M=64, BLOCK_D=size["BLOCK_D"],
        )  # fmt: skip
        found.append(mean_of_heads(rows, skip))
    return found


def _spans(heads: int, length: int, rows: int, cols: int) -> tuple[int, int]:
    """Blocks of `cols` columns, and how many queries a program takes, in blocks of `rows`."""
    blocks, turns = ceil_div(length, cols), ceil_div(length, rows)
    programs = launch("received_from_lse parts", {"programs": _PROGRAMS})["programs"]
    parts = min(turns, ceil_div(programs, heads * blocks))
    return blocks, ceil_div(turns, parts) * rows
