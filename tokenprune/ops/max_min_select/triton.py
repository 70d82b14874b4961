"""Triton: one launch a pick; see `tokenprune.ops.picks_triton`."""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.launching import ceil_div
from tokenprune.ops.max_min_select.reference import first_score
from tokenprune.ops.picks import LOWEST as _LOWEST
from tokenprune.ops.picks_triton import best, ranked


@triton.jit
def _step_kernel(
    matrix_ptr, gain_ptr, nearest_ptr, old_ptr, new_ptr, pick_ptr, tokens, k, step,
    m_batch, m_row, m_col, LOWEST: tl.constexpr, BLOCK: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = cols < tokens
    at = batch * tokens + cols
    _, pick = best(old_ptr + batch * tokens, tokens, BLOCK)
    tl.store(pick_ptr + batch * k + step, pick.to(tl.int64), mask=tl.program_id(1) == 0)
    row = matrix_ptr + batch * m_batch + pick.to(tl.int64) * m_row + cols * m_col
    away = tl.load(row, mask=inside, other=0.0).to(tl.float32)
    away = tl.where(away > LOWEST, away, LOWEST)
    nearest = tl.minimum(tl.load(nearest_ptr + at, mask=inside, other=0.0), away)
    score = nearest * tl.load(gain_ptr + at, mask=inside, other=0.0)
    old = tl.load(old_ptr + at, mask=inside, other=0.0)
    taken = (old == float("-inf")) | (cols == pick)
    tl.store(nearest_ptr + at, nearest, mask=inside)
    tl.store(new_ptr + at, ranked(score, taken, LOWEST), mask=inside)


def max_min_select(distance: Tensor, k: int, gain: Tensor | None) -> Tensor:
    """See `tokenprune.ops.max_min_select`."""
    batch, tokens, _ = distance.shape
    index = torch.empty((batch, k), device=distance.device, dtype=torch.int64)
    if index.numel() == 0:
        return index
    old = first_score(distance, gain)
    nearest, new = torch.full_like(old, torch.inf), torch.empty_like(old)
    factor = torch.ones_like(old) if gain is None else gain.to(torch.float32).contiguous()
    for step in range(k):
        _step_kernel[(batch, ceil_div(tokens, 128))](
            distance, factor, nearest, old, new, index, tokens, k, step, *distance.stride(),
            LOWEST=_LOWEST, BLOCK=1024, BLOCK_N=128,
        )  # fmt: skip
        old, new = new, old
    return index
