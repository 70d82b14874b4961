"""Triton: one pass; the sum of each key's column, weighed by its size at the end."""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.heads_triton import begin, bias_of, launch_size, mean_of_heads, rows_of


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


def received_from_lse(
    query: Tensor, key: Tensor, lse: Tensor, bias: Tensor | None, skip: int
) -> Tensor:
    """See `tokenprune.ops.received_from_lse`."""
    batch, heads, length, width = query.shape
    if batch * heads == 0:
        return query.new_zeros((batch, length - skip), dtype=torch.float32)
    if key.dtype != query.dtype:
        key = key.to(query.dtype)
    biased, lse = bias is not None, lse.float().contiguous()
    bias = bias.contiguous() if biased else lse
    columns = torch.empty((batch, heads, length), device=query.device, dtype=torch.float32)
    size = launch_size("received_from_lse", width, query.element_size())
    _column_kernel[(batch * heads, triton.cdiv(length, size["BLOCK_N"]))](
        query, key, lse, bias, columns, heads, heads // key.shape[1], length, width,
        skip, width**-0.5, *query.stride(), *key.stride(), BIASED=biased, **size,
    )  # fmt: skip
    return mean_of_heads(columns, skip)
