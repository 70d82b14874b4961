"""Triton: similarity, terms, masks, maximum and its index in one pass over the pairs."""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.cosines_triton import length_of, products
from tokenprune.ops.launching import ceil_div


@triton.jit
def _match_kernel(
    a_ptr, b_ptr, gain_a_ptr, gain_b_ptr, bias_a_ptr, bias_b_ptr, block_a_ptr, block_b_ptr,
    value_ptr, index_ptr, n_a, n_b, width,
    a_batch, a_row, a_col, b_batch, b_row, b_col,
    SQUASH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    row_in = rows < n_a
    a_ptr += batch * a_batch
    b_ptr += batch * b_batch
    gain_a = tl.load(gain_a_ptr + batch * n_a + rows, mask=row_in, other=0.0)
    bias_a = tl.load(bias_a_ptr + batch * n_a + rows, mask=row_in, other=0.0)
    block_a = tl.load(block_a_ptr + batch * n_a + rows, mask=row_in, other=1)
    best = tl.full([BLOCK_M], float("-inf"), tl.float32)
    best_at = tl.zeros([BLOCK_M], tl.int64)
    for start in range(0, n_b, BLOCK_N):
        cols = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        col_in = cols < n_b
        dot, a_square, b_square = products(
            a_ptr, b_ptr, rows, cols, n_a, n_b, width, a_row, a_col, b_row, b_col,
            BLOCK_M, BLOCK_N, BLOCK_D,
        )  # fmt: skip
        score = dot / length_of(a_square)[:, None] / length_of(b_square)[None, :]
        if SQUASH:
            score = (score + 1.0) * 0.5
        gain_b = tl.load(gain_b_ptr + batch * n_b + cols, mask=col_in, other=0.0)
        bias_b = tl.load(bias_b_ptr + batch * n_b + cols, mask=col_in, other=0.0)
        block_b = tl.load(block_b_ptr + batch * n_b + cols, mask=col_in, other=1)
        score = score * gain_a[:, None] * gain_b[None, :] + bias_a[:, None] + bias_b[None, :]
        free = (block_a[:, None] == 0) & (block_b[None, :] == 0)
        score = tl.where(free, score, float("-inf"))
        top = tl.max(score, 1)
        top_at = tl.min(tl.where(score == top[:, None], cols[None, :], n_b), 1)
        # Strictly greater: on ties the earlier block, and so the lower index, stays.
        better = top > best
        best_at = tl.where(better, top_at, best_at)
        best = tl.where(better, top, best)
    tl.store(value_ptr + batch * n_a + rows, best, mask=row_in)
    tl.store(index_ptr + batch * n_a + rows, best_at, mask=row_in)


def bipartite_match(
    a: Tensor,
    b: Tensor,
    gains: tuple[Tensor | None, Tensor | None],
    biases: tuple[Tensor | None, Tensor | None],
    blocks: tuple[Tensor | None, Tensor | None],
    squash: bool,
) -> tuple[Tensor, Tensor]:
    """See `tokenprune.ops.bipartite_match`; pairs hold the term of `a`, then of `b`."""
    batch, n_a, width = a.shape
    n_b = b.shape[1]
    if b.dtype != a.dtype:
        b = b.to(a.dtype)
    value = torch.empty((batch, n_a), device=a.device, dtype=torch.float32)
    index = torch.empty((batch, n_a), device=a.device, dtype=torch.int64)
    if value.numel() == 0:
        return value, index
    terms = [
        _dense(term, a.new_full((batch, length), neutral, dtype=dtype), dtype)
        for pair, neutral, dtype in (
            (gains, 1, torch.float32), (biases, 0, torch.float32), (blocks, 0, torch.uint8),
        )
        for term, length in zip(pair, (n_a, n_b), strict=True)
    ]  # fmt: skip
    _match_kernel[(batch, ceil_div(n_a, 32))](
        a, b, *terms, value, index, n_a, n_b, width, *a.stride(), *b.stride(),
        SQUASH=squash, BLOCK_M=32, BLOCK_N=64, BLOCK_D=64,
    )  # fmt: skip
    return value, index


def _dense(term: Tensor | None, default: Tensor, dtype: torch.dtype) -> Tensor:
    return default if term is None else term.to(dtype).contiguous()
