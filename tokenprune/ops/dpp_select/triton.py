"""Triton: one launch a pick; see `tokenprune.ops.picks_triton`. Sums are in float64."""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.dpp_select.reference import SPANNED as _SPANNED
from tokenprune.ops.dpp_select.reference import spanned_score
from tokenprune.ops.launching import ceil_div
from tokenprune.ops.picks import LOWEST as _LOWEST
from tokenprune.ops.picks_triton import best, ranked


@triton.jit
def _step_kernel(
    matrix_ptr, diagonal_ptr, old_rest_ptr, new_rest_ptr, factor_ptr, old_ptr, new_ptr,
    pick_ptr, tokens, k, step, m_batch, m_row, m_col,
    SPANNED: tl.constexpr, LOWEST: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = cols < tokens
    at = batch * tokens + cols
    top, pick = best(old_ptr + batch * tokens, tokens, BLOCK)
    tl.store(pick_ptr + batch * k + step, pick.to(tl.int64), mask=tl.program_id(1) == 0)
    spanned = tl.zeros([BLOCK_N], tl.float64)
    factor_ptr += batch * k * tokens
    for start in range(0, step, BLOCK_S):
        steps = (start + tl.arange(0, BLOCK_S)).to(tl.int64)
        theirs = tl.load(factor_ptr + steps * tokens + pick, mask=steps < step, other=0.0)
        tile_in = (steps[:, None] < step) & inside[None, :]
        tile = factor_ptr + steps[:, None] * tokens + cols[None, :]
        spanned += tl.sum(theirs[:, None] * tl.load(tile, mask=tile_in, other=0.0), 0)
    source = matrix_ptr + batch * m_batch + pick.to(tl.int64) * m_row + cols * m_col
    row = tl.load(source, mask=inside, other=0.0).to(tl.float32).to(tl.float64) - spanned
    # A spanned pick has no direction of its own to take out of the others.
    own = tl.where(top > 0, tl.load(old_rest_ptr + batch * tokens + pick), 1.0)
    row = tl.where(top > 0, row / tl.sqrt(own), 0.0)
    rest = tl.load(old_rest_ptr + at, mask=inside, other=0.0) - row * row
    diagonal = tl.load(diagonal_ptr + at, mask=inside, other=0.0)
    left = rest.to(tl.float32)
    none_left = tl.where(diagonal > 0, -1.0 / tl.where(diagonal > 0, diagonal, 1.0), LOWEST)
    score = tl.where(left > SPANNED * diagonal, left, none_left)
    old = tl.load(old_ptr + at, mask=inside, other=0.0)
    taken = (old == float("-inf")) | (cols == pick)
    tl.store(factor_ptr + step * tokens + cols, row, mask=inside)
    tl.store(new_rest_ptr + at, rest, mask=inside)
    tl.store(new_ptr + at, ranked(score, taken, LOWEST), mask=inside)


def dpp_select(kernel: Tensor, k: int) -> Tensor:
    """See `tokenprune.ops.dpp_select`."""
    batch, tokens, _ = kernel.shape
    index = torch.empty((batch, k), device=kernel.device, dtype=torch.int64)
    if index.numel() == 0:
        return index
    diagonal = kernel.diagonal(dim1=1, dim2=2).float().contiguous()
    rest = diagonal.double()
    old = torch.where(diagonal > 0, diagonal, spanned_score(diagonal))
    new_rest, new = torch.empty_like(rest), torch.empty_like(old)
    factor = rest.new_empty(batch, k, tokens)
    for step in range(k):
        _step_kernel[(batch, ceil_div(tokens, 128))](
            kernel, diagonal, rest, new_rest, factor, old, new, index, tokens, k, step,
            *kernel.stride(),
            SPANNED=_SPANNED, LOWEST=_LOWEST, BLOCK=1024, BLOCK_N=128, BLOCK_S=32,
        )  # fmt: skip
        old, new, rest, new_rest = new, old, new_rest, rest
    return index
