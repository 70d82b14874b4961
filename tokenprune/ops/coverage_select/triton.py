"""Triton: one launch a pick, each taking all sums anew; see `tokenprune.ops.picks_triton`."""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.launching import ceil_div
from tokenprune.ops.picks import LOWEST as _LOWEST
from tokenprune.ops.picks_triton import best, ranked


@triton.jit
def _step_kernel(
    matrix_ptr, gain_ptr, old_covered_ptr, new_covered_ptr, old_ptr, new_ptr, pick_ptr,
    targets, tokens, k, step, m_batch, m_row, m_col,
    LOWEST: tl.constexpr, BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    leads = tl.program_id(1) == 0
    cols = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = cols < tokens
    at = batch * tokens + cols
    matrix_ptr += batch * m_batch
    # The first launch has nothing to pick from: no score, nothing covered.
    _, pick = best(old_ptr + batch * tokens, tokens, BLOCK)
    picked = step >= 0
    # Limits instead of masks joined with a scalar, which the interpreter of Triton 3.9 refuses.
    read, written = tl.where(picked, targets, 0), tl.where(leads, targets, 0)
    tl.store(pick_ptr + batch * k + step, pick.to(tl.int64), mask=leads & picked)
    sums = tl.zeros([BLOCK_N], tl.float32)
    for start in range(0, targets, BLOCK_M):
        rows = (start + tl.arange(0, BLOCK_M)).to(tl.int64)
        row_in = rows < targets
        mine = tl.load(old_covered_ptr + batch * targets + rows, mask=row_in, other=0.0)
        column = matrix_ptr + rows * m_row + pick.to(tl.int64) * m_col
        theirs = tl.load(column, mask=rows < read, other=0.0).to(tl.float32)
        covered = tl.where(theirs > mine, theirs, mine)
        tl.store(new_covered_ptr + batch * targets + rows, covered, mask=rows < written)
        tile = matrix_ptr + rows[:, None] * m_row + cols[None, :] * m_col
        tile_in = row_in[:, None] & inside[None, :]
        added = tl.load(tile, mask=tile_in, other=0.0).to(tl.float32) - covered[:, None]
        # Not a maximum, which would lose NaN.
        sums += tl.sum(tl.where(added < 0, 0.0, added), 0)
    score = sums * tl.load(gain_ptr + at, mask=inside, other=0.0)
    old = tl.load(old_ptr + at, mask=inside, other=0.0)
    taken = picked & ((old == float("-inf")) | (cols == pick))
    tl.store(new_ptr + at, ranked(score, taken, LOWEST), mask=inside)


def coverage_select(cover: Tensor, k: int, gain: Tensor | None) -> Tensor:
    """See `tokenprune.ops.coverage_select`."""
    batch, targets, tokens = cover.shape
    index = torch.empty((batch, k), device=cover.device, dtype=torch.int64)
    if index.numel() == 0:
        return index
    old = cover.new_zeros((batch, tokens), dtype=torch.float32)
    factor = torch.ones_like(old) if gain is None else gain.to(torch.float32).contiguous()
    covered, new = old.new_zeros(batch, targets), torch.empty_like(old)
    new_covered = torch.empty_like(covered)
    for step in range(-1, k):
        _step_kernel[(batch, ceil_div(tokens, 32))](
            cover, factor, covered, new_covered, old, new, index, targets, tokens, k, step,
            *cover.stride(), LOWEST=_LOWEST, BLOCK=1024, BLOCK_M=64, BLOCK_N=32,
        )  # fmt: skip
        old, new, covered, new_covered = new, old, new_covered, covered
    return index
