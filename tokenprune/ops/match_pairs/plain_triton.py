"""Triton: proposals by the cosine alone, without the matrix of all pairs.

Several programs may share the rows of a tile, each with receiving tokens of its own, so that a
single image has enough programs for a large GPU.
"""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.cosines_triton import length_of, products
from tokenprune.ops.keys_triton import NONE
from tokenprune.ops.launching import ceil_div
from tokenprune.ops.match_pairs.pieces_triton import VARYING, pair_keys, similarity, tokens_at

_PROGRAMS = 128  # about as many as a large GPU runs at once (ours)


@triton.jit(do_not_specialize=VARYING)
def _match_kernel(
    x_ptr, order_ptr, blocked_ptr, key_ptr, length, width, ahead, behind, first, span,
    x_batch, x_row, x_col,
    SQUASH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    split = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(1).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    row_in = rows < ahead
    x_ptr += batch * x_batch
    if order_ptr is not None:
        order_ptr += batch * length
    # A row that is outside gets a token that is outside, so that `products` doesn't load it.
    row_at = tl.where(row_in, tokens_at(order_ptr, first + 2 * rows, row_in), length)
    if blocked_ptr is not None:
        blocked_ptr += batch * length
        row_held = tl.load(blocked_ptr + row_at, mask=row_in, other=1)
    top = tl.full([BLOCK_M], NONE, tl.int64)
    free = tl.full([BLOCK_M], NONE, tl.int64)
    for tile in range(0, span):
        cols = (split * span + tile) * BLOCK_N + tl.arange(0, BLOCK_N)
        col_in = cols < behind
        col_at = tl.where(col_in, tokens_at(order_ptr, 1 - first + 2 * cols, col_in), length)
        dot, row_square, col_square = products(
            x_ptr, x_ptr, row_at, col_at, length, length, width, x_row, x_col, x_row, x_col,
            BLOCK_M, BLOCK_N, BLOCK_D,
        )  # fmt: skip
        row_length, col_length = length_of(row_square), length_of(col_square)
        key = pair_keys(
            similarity(dot, row_length[:, None], col_length[None, :], SQUASH), cols, col_in
        )
        top = tl.maximum(top, tl.max(key, 1))
        if blocked_ptr is not None:
            col_held = tl.load(blocked_ptr + col_at, mask=col_in, other=1)
            held = (row_held[:, None] | col_held[None, :]) != 0
            free = tl.maximum(free, tl.max(tl.where(held, NONE, key), 1))
    step = tl.num_programs(0).to(tl.int64) * ahead
    key_ptr += split * step + batch * ahead + rows
    tl.store(key_ptr, top, mask=row_in)
    if blocked_ptr is not None:
        tl.store(key_ptr + tl.num_programs(2) * step, free, mask=row_in)


def plain_keys(
    x: Tensor,
    order: Tensor | None,
    blocked: Tensor | None,
    first: int,
    ahead: int,
    behind: int,
    squash: bool,
) -> Tensor:
    """Keys of the best pairs of each proposing token, at its partner, int64 `[K, S, B, Na]`.

    S programs shared a row. K is 2 where some are blocked, the second for pairs of free tokens.
    """
    batch, length, width = x.shape
    block, span, splits = _tiles(batch, ahead, behind)
    kinds = 1 if blocked is None else 2
    key = torch.empty((kinds, splits, batch, ahead), device=x.device, dtype=torch.int64)
    _match_kernel[(batch, ceil_div(ahead, block), splits)](
        x, order, blocked, key, length, width, ahead, behind, first, span, *x.stride(),
        SQUASH=squash, BLOCK_M=block, BLOCK_N=block, BLOCK_D=256 // x.element_size(),
    )  # fmt: skip
    return key


def _tiles(batch: int, ahead: int, behind: int) -> tuple[int, int, int]:
    """Width of tiles, how many of them a program takes, and how many programs share a row."""
    block = 64 if batch * ceil_div(ahead, 64) * ceil_div(behind, 64) >= _PROGRAMS else 32
    rows, cols = batch * ceil_div(ahead, block), ceil_div(behind, block)
    span = ceil_div(cols, min(cols, ceil_div(_PROGRAMS, rows)))
    return block, span, ceil_div(cols, span)
