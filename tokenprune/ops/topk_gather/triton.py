"""Triton: rank every token by counting its betters, compact the chosen, copy their riders."""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.launching import ceil_div
from tokenprune.ops.rows_triton import copied_rows


@triton.jit
def _choose_kernel(score_ptr, chosen_ptr, tokens, k, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    batch = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    mine = tl.load(score_ptr + batch * tokens + rows, mask=rows < tokens, other=0.0)[:, None]
    mine_nan = mine != mine
    betters = tl.zeros([BLOCK_M], tl.int32)
    for start in range(0, tokens, BLOCK_N):
        cols = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        theirs = tl.load(score_ptr + batch * tokens + cols, mask=cols < tokens, other=0.0)[None, :]
        theirs_nan = theirs != theirs
        greater = (theirs > mine) | (mine_nan & (theirs == theirs))
        equal = (theirs == mine) | (mine_nan & theirs_nan)
        better = greater | (equal & (cols[None, :] < rows[:, None]))
        betters += tl.sum((better & (cols[None, :] < tokens)).to(tl.int32), 1)
    tl.store(chosen_ptr + batch * tokens + rows, (betters < k).to(tl.int8), mask=rows < tokens)


@triton.jit
def _compact_kernel(chosen_ptr, index_ptr, tokens, k, BLOCK_N: tl.constexpr):
    batch = tl.program_id(0).to(tl.int64)
    filled = 0
    for start in range(0, tokens, BLOCK_N):
        cols = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        chosen = tl.load(chosen_ptr + batch * tokens + cols, mask=cols < tokens, other=0)
        chosen = chosen.to(tl.int32)
        place = filled + tl.cumsum(chosen, 0) - 1
        tl.store(index_ptr + batch * k + place, cols, mask=(chosen != 0) & (cols < tokens))
        filled += tl.sum(chosen, 0)


def topk_gather(score: Tensor, k: int, riders: list[Tensor]) -> list[Tensor]:
    """See `tokenprune.ops.topk_gather`; the indices come first."""
    batch, tokens = score.shape
    index = torch.empty((batch, k), device=score.device, dtype=torch.int64)
    if index.numel():
        chosen = torch.empty((batch, tokens), device=score.device, dtype=torch.int8)
        _choose_kernel[(batch, ceil_div(tokens, 32))](
            score.to(torch.float32).contiguous(), chosen, tokens, k, BLOCK_M=32, BLOCK_N=128
        )
        _compact_kernel[(batch,)](chosen, index, tokens, k, BLOCK_N=512)
    return [index, *(copied_rows(rider, index) for rider in riders)]
