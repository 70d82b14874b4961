"""Triton: tokens apart by the score that the last of the best has.

Where a program holds a sample, it sorts the best in front, and the least of their keys tells every
other token how many of them it moves up by. Longer samples take two launches: the rank of every
token by comparing it with all, then its place.
"""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.keys_triton import NONE, PREFERRED, key_of, place_of
from tokenprune.ops.launching import ceil_div, launch, padded


# Numbers differ from site to site; a program for each kind of number would be compiled otherwise.
@triton.jit(do_not_specialize=["tokens", "number", "s_batch"])
def _alone_kernel(
    score_ptr, order_ptr, tokens, number, s_batch, s_col, BLOCK: tl.constexpr, BEST: tl.constexpr
):
    """A sample of up to BLOCK tokens, of which BEST or fewer are the best."""
    batch = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < tokens
    score = tl.load(score_ptr + batch * s_batch + at.to(tl.int64) * s_col, mask=inside, other=0.0)
    key = tl.where(inside, key_of(score.to(tl.float32), at), NONE)
    best = tl.topk(key, BEST)
    rank = tl.arange(0, BEST)
    least = tl.sum(tl.where(rank == number - 1, best, 0), 0)
    least = tl.where(number > 0, least, PREFERRED)
    order_ptr += batch * tokens
    tl.store(order_ptr + tokens - number + rank, place_of(best), mask=rank < number)
    other = key < least
    place = at - tl.cumsum(tl.where(other, 0, 1), 0)
    tl.store(order_ptr + place, at.to(tl.int64), mask=inside & other)


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
    if order.numel() == 0:
        return order
    alone = launch("best_last alone", {"tokens": 1024, "num_warps": 8})
    if tokens <= alone["tokens"]:
        wide = padded(tokens, 64)
        _alone_kernel[(batch,)](
            score, order, tokens, number, *score.stride(),
            BLOCK=wide, BEST=wide // 4 if number <= wide // 4 else wide,
            num_warps=min(alone["num_warps"], wide // 64),
        )  # fmt: skip
        return order
    rank = torch.empty((batch, tokens), device=score.device, dtype=torch.int32)
    blocks = launch("best_last", {"BLOCK_M": 16, "BLOCK_N": 128})
    grid = batch, ceil_div(tokens, blocks["BLOCK_M"])
    _rank_kernel[grid](score, rank, tokens, *score.stride(), **blocks)
    _place_kernel[grid](rank, order, tokens, number, **blocks)
    return order
