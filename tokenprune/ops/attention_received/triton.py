"""Triton: one pass for the normaliser of each query, one for the sum of each key's column."""
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
from tokenprune.ops.launching import ceil_div


@triton.jit
def _logits(
    q_ptr, k_ptr, bias_ptr, rows, cols, length, width, q_row, q_col, k_row, k_col, scale,
    BIASED: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Biased logits of a block of queries and keys; -1e30 where the key is outside."""
    q = rows_of(q_ptr, rows, length, width, q_row, q_col, BLOCK_D)
    k = rows_of(k_ptr, cols, length, width, k_row, k_col, BLOCK_D)
    bias = bias_of(bias_ptr, cols, cols < length, -1e30, BIASED)
    logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    return logits + tl.maximum(bias, -1e30)[None, :]


@triton.jit
def _normaliser_kernel(
    q_ptr, k_ptr, bias_ptr, peak_ptr, mass_ptr, given_ptr, heads, group, length, width, skip, scale,
    q_batch, q_head, q_row, q_col, k_batch, k_head, k_row, k_col,
    BIASED: tl.constexpr, EVEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Each query's largest logit and the sum that follows from it; what it gives if asked."""
    pair, batch, q_ptr, k_ptr = begin(
        q_ptr, k_ptr, heads, group, q_batch, q_head, k_batch, k_head, EVEN
    )
    width = multiple(width, EVEN)
    bias_ptr += batch * length
    rows = tl.program_id(1).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    mass = tl.zeros([BLOCK_M], tl.float32)
    ahead = tl.zeros([BLOCK_M], tl.float32)
    for start in range(0, length, BLOCK_N):
        cols = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        logits = _logits(
            q_ptr, k_ptr, bias_ptr, rows, cols, length, width,
            q_row, q_col, k_row, k_col, scale, BIASED, BLOCK_D,
        )  # fmt: skip
        logits = tl.where(cols[None, :] < length, logits, float("-inf"))
        higher = tl.maximum(peak, tl.max(logits, 1))
        weight, shrunk = tl.exp(logits - higher[:, None]), tl.exp(peak - higher)
        mass = mass * shrunk + tl.sum(weight, 1)
        if given_ptr is not None:
            ahead = ahead * shrunk + tl.sum(tl.where(cols[None, :] < skip, weight, 0.0), 1)
        peak = higher
    tl.store(peak_ptr + pair * length + rows, peak, mask=rows < length)
    tl.store(mass_ptr + pair * length + rows, mass, mask=rows < length)
    if given_ptr is not None:
        given = (1.0 - ahead / mass) / (length - skip)
        tl.store(given_ptr + pair * length + rows, given, mask=rows < length)


@triton.jit
def _column_kernel(
    q_ptr, k_ptr, bias_ptr, peak_ptr, mass_ptr, out_ptr, heads, group, length, width, skip, scale,
    q_batch, q_head, q_row, q_col, k_batch, k_head, k_row, k_col,
    BIASED: tl.constexpr, EVEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    pair, batch, q_ptr, k_ptr = begin(
        q_ptr, k_ptr, heads, group, q_batch, q_head, k_batch, k_head, EVEN
    )
    width = multiple(width, EVEN)
    bias_ptr += batch * length
    cols = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros([BLOCK_N], tl.float32)
    for start in range(0, length, BLOCK_M):
        rows = (start + tl.arange(0, BLOCK_M)).to(tl.int64)
        logits = _logits(
            q_ptr, k_ptr, bias_ptr, rows, cols, length, width,
            q_row, q_col, k_row, k_col, scale, BIASED, BLOCK_D,
        )  # fmt: skip
        peak = tl.load(peak_ptr + pair * length + rows, mask=rows < length, other=0.0)
        mass = tl.load(mass_ptr + pair * length + rows, mask=rows < length, other=1.0)
        weight = tl.exp(logits - peak[:, None]) / mass[:, None]
        counted = (rows[:, None] < length) & (rows[:, None] >= skip)
        total += tl.sum(tl.where(counted, weight, 0.0), 0)
    tl.store(out_ptr + pair * length + cols, total / (length - skip), mask=cols < length)


def attention_received(
    query: Tensor, key: Tensor, bias: Tensor | None, scale: float, skip: int, given: bool
) -> list[Tensor]:
    """See `tokenprune.ops.attention_received`."""
    batch, heads, length, width = query.shape
    if batch * heads == 0:
        shape = (batch, length - skip)
        return [query.new_zeros(shape, dtype=torch.float32) for _ in range(2 if given else 1)]
    if key.dtype != query.dtype:
        key = key.to(query.dtype)
    peak = torch.empty((batch, heads, 1, length), device=query.device, dtype=torch.float32)
    mass, columns = torch.empty_like(peak), torch.empty_like(peak)
    rows = torch.empty_like(peak) if given else None
    biased = bias is not None
    bias = bias.contiguous() if biased else peak
    size = {
        "BIASED": biased, "EVEN": even(query, key),
        **launch_size("attention_received", width, query.element_size()),
    }  # fmt: skip
    grid = (batch * heads, ceil_div(length, size["BLOCK_M"]))
    group, strides = heads // key.shape[1], (*query.stride(), *key.stride())
    _normaliser_kernel[grid](
        query, key, bias, peak, mass, rows, heads, group, length, width, skip, scale,
        *strides, **size,
    )  # fmt: skip
    _column_kernel[grid](
        query, key, bias, peak, mass, columns, heads, group, length, width, skip, scale,
        *strides, **size,
    )  # fmt: skip
    return [mean_of_heads(sums, skip) for sums in (columns, rows) if sums is not None]
