"""Triton: one pass; the sum of each key's column, weighed by its size at the end.

What a query gives is made of the few tokens that are left out, in a pass over these alone.
"""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.heads_triton import begin, bias_of, launch_size, mean_of_heads, rows_of
from tokenprune.ops.launching import ceil_div


@triton.jit
def _column_kernel(
    q_ptr, k_ptr, lse_ptr, bias_ptr, out_ptr, heads, group, length, width, skip, scale,
    q_batch, q_head, q_row, q_col, k_batch, k_head, k_row, k_col,
    BIASED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    pair, batch, q_ptr, k_ptr = begin(q_ptr, k_ptr, heads, group, q_batch, q_head, k_batch, k_head)
    cols = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = rows_of(k_ptr, cols, length, width, k_row, k_col, BLOCK_D)
    total = tl.zeros([BLOCK_N], tl.float32)
    for start in range(0, length, BLOCK_M):
        rows = (start + tl.arange(0, BLOCK_M)).to(tl.int64)
        q = rows_of(q_ptr, rows, length, width, q_row, q_col, BLOCK_D)
        lse = tl.load(lse_ptr + pair * length + rows, mask=rows < length, other=0.0)
        logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scale - lse[:, None]
        counted = (rows[:, None] < length) & (rows[:, None] >= skip)
        total += tl.sum(tl.exp(tl.where(counted, logits, float("-inf"))), 0)
    bias = bias_of(bias_ptr + batch * length, cols, cols < length, 0.0, BIASED)
    # a hidden key's sum may be too large for a number, and infinity times 0 is none
    total = tl.where(bias == float("-inf"), 0.0, total * tl.exp(bias)) / (length - skip)
    tl.store(out_ptr + pair * length + cols, total, mask=cols < length)


@triton.jit(do_not_specialize=["length", "skip"])
def _given_kernel(
    q_ptr, k_ptr, lse_ptr, bias_ptr, out_ptr, heads, group, length, width, skip, scale,
    q_batch, q_head, q_row, q_col, k_batch, k_head, k_row, k_col,
    BIASED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Of one head and some queries, the weights that are left, as a share of the keys."""
    pair, batch, q_ptr, k_ptr = begin(q_ptr, k_ptr, heads, group, q_batch, q_head, k_batch, k_head)
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
    columns = torch.empty((batch, heads, length), device=query.device, dtype=torch.float32)
    size = launch_size("received_from_lse", width, query.element_size())
    group, strides = heads // key.shape[1], (*query.stride(), *key.stride())
    _column_kernel[(batch * heads, ceil_div(length, size["BLOCK_N"]))](
        query, key, lse, bias, columns, heads, group, length, width, skip, width**-0.5,
        *strides, BIASED=biased, **size,
    )  # fmt: skip
    found = [mean_of_heads(columns, skip)]
    if given:
        rows = torch.empty_like(columns)
        _given_kernel[(batch * heads, ceil_div(length, 64))](
            query, key, lse, bias, rows, heads, group, length, width, skip, width**-0.5,
            *strides, BIASED=biased, BLOCK_M=64, BLOCK_D=size["BLOCK_D"],
        )  # fmt: skip
        found.append(mean_of_heads(rows, skip))
    return found
