"""Triton: the rank of every token, then its place; a token of the others moves up by the best."""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.launching import ceil_div, launch


# Numbers differ from site to site; a program for each kind of number would be compiled otherwise.
@triton.jit(do_not_specialize=["tokens", "s_batch"])
def _rank_kernel(
    score_ptr, rank_ptr, tokens, s_batch, s_col, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    batch = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    score_ptr += batch * s_batch
    mine = tl.load(score_ptr + rows.to(tl.int64) * s_col, mask=rows < tokens, other=0.0)[:, None]
    mine = mine.to(tl.float32)
    betters = tl.zeros([BLOCK_M, BLOCK_N], tl.int32)
    for start in range(0, tokens, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        inside = (cols < tokens)[None, :]
        at = score_ptr + cols.to(tl.int64) * s_col
        theirs = tl.load(at, mask=cols < tokens, other=0.0)[None, :].to(tl.float32)
        better = (theirs > mine) | ((theirs != theirs) & (mine == mine))
        equal = (theirs == mine) | ((theirs != theirs) & (mine != mine))
        better = better | (equal & (cols[None, :] < rows[:, None]))
        betters += (better & inside).to(tl.int32)
    tl.store(rank_ptr + batch * tokens + rows, tl.sum(betters, 1), mask=rows < tokens)


@triton.jit(do_not_specialize=["tokens", "number"])
def _place_kernel(
    rank_ptr, order_ptr, tokens, number, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    batch = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    rank_ptr += batch * tokens
    rank = tl.load(rank_ptr + rows, mask=rows < tokens, other=0)
    ahead = tl.zeros([BLOCK_M, BLOCK_N], tl.int32)
    for start in range(0, tokens, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        best = tl.load(rank_ptr + cols, mask=cols < tokens, other=tokens) < number
        ahead += (best[None, :] & (cols[None, :] < rows[:, None])).to(tl.int32)
    place = tl.where(rank < number, tokens - number + rank, rows - tl.sum(ahead, 1))
    tl.store(order_ptr + batch * tokens + place, rows.to(tl.int64), mask=rows < tokens)


def best_last(score: Tensor, number: int) -> Tensor:
    """See `tokenprune.ops.best_last`."""
    batch, tokens = score.shape
    order = torch.empty((batch, tokens), device=score.device, dtype=torch.int64)
    if order.numel():
        rank = torch.empty((batch, tokens), device=score.device, dtype=torch.int32)
        blocks = launch("best_last", {"BLOCK_M": 16, "BLOCK_N": 128})
        grid = batch, ceil_div(tokens, blocks["BLOCK_M"])
        _rank_kernel[grid](score, rank, tokens, *score.stride(), **blocks)
        _place_kernel[grid](rank, order, tokens, number, **blocks)
    return order
