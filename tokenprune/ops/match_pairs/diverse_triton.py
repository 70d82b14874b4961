"""Triton: proposals under diversity: products of all tokens, nearest others, best partners.

A program of the last two has one row. So a row is never wider than a few warps, mostly one, which
find a maximum without waiting for each other, and a single image has hundreds of programs.
"""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.cosines_triton import length_of, products
from tokenprune.ops.keys_triton import NONE, PREFERRED, key_of, place_of, score_of
from tokenprune.ops.match_pairs import Diversity
from tokenprune.ops.match_pairs.pieces_triton import settled, similarity, tokens_at

_VARYING = ("length", "number", "tiles", "behind", "ahead", "first", "count", "others")
"""Numbers that change from site to site; a kernel isn't compiled anew for those of a kind."""


@triton.jit(do_not_specialize=_VARYING)
def _product_kernel(
    x_ptr, order_ptr, dot_ptr, square_ptr, length, number, tiles, width, x_batch, x_row, x_col,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Products of the first `number` rows with all, and all squared lengths."""
    pair = tl.program_id(0).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    across = tl.cdiv(length, BLOCK)
    # The tiles on the diagonal have the squared lengths. The programs after those of the products
    # have such a tile below the last row, of which nothing else is stored.
    extra = pair >= tiles * across
    down = tl.where(extra, pair - tiles * across + tiles, pair // across)
    over = tl.where(extra, down, pair % across)
    rows = down * BLOCK + tl.arange(0, BLOCK)
    cols = over * BLOCK + tl.arange(0, BLOCK)
    row_in, col_in = rows < length, cols < length
    if order_ptr is not None:
        order_ptr += batch * length
    row_at = tl.where(row_in, tokens_at(order_ptr, rows, row_in), length)
    col_at = tl.where(col_in, tokens_at(order_ptr, cols, col_in), length)
    x_ptr += batch * x_batch
    dot, _, _ = products(
        x_ptr, x_ptr, row_at, col_at, length, length, width, x_row, x_col, x_row, x_col,
        BLOCK, BLOCK, BLOCK_D, SQUARES=False,
    )  # fmt: skip
    at = dot_ptr + (batch * number + rows[:, None]) * length + cols[None, :]
    tl.store(at, dot, mask=(rows[:, None] < number) & col_in[None, :])
    square = tl.sum(tl.where(rows[:, None] == cols[None, :], dot, 0.0), 1)
    tl.store(square_ptr + batch * length + rows, square, mask=row_in & (down == over))


@triton.jit(do_not_specialize=_VARYING)
def _nearest_kernel(
    dot_ptr, square_ptr, near_ptr, length, number, count, BLOCK: tl.constexpr
):  # fmt: skip
    """Squared distances of a row to the nearest others, nearest first, and after them their sum."""
    row = tl.program_id(0).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    square_ptr += batch * length
    square = tl.load(square_ptr + cols, mask=cols < length, other=0.0)
    own = tl.load(square_ptr + row)
    col_length, row_length = length_of(square), length_of(own)
    dot = tl.load(dot_ptr + (batch * number + row) * length + cols, mask=cols < length, other=0.0)
    # |u - v|^2 = |u|^2 + |v|^2 - 2 u v with lengths of 1 or 0; |u|^2 is the same along the row.
    near = dot / (row_length * col_length) - 0.5 * (square / (col_length * col_length))
    other = (cols < length) & (cols != row)
    key = tl.where(other, key_of(near, cols), NONE)
    near_ptr += batch * (count + 1) * number + row
    total = 0.0
    for _ in range(0, count):
        top = tl.max(key, 0)
        key = tl.where(key == top, NONE, key)
        distance = own / (row_length * row_length) - 2.0 * score_of(top)
        distance = tl.where(distance < 0.0, 0.0, distance)  # NaN stays
        tl.store(near_ptr, distance)
        near_ptr += number
        total += distance
    tl.store(near_ptr, total)


@triton.jit
def _gain(near_ptr, places, inside, number, count, scale, weight):
    """`exp(-w d)` of the density d by the distances to the nearest others."""
    total = tl.exp(tl.load(near_ptr + places, mask=inside, other=0.0) * scale) - 1.0
    for rank in range(1, count):
        distance = tl.load(near_ptr + rank * number + places, mask=inside, other=0.0)
        total += tl.exp(distance * scale) - 1.0
    return tl.exp(total * weight)


@triton.jit(do_not_specialize=_VARYING)
def _best_kernel(
    dot_ptr, square_ptr, near_ptr, blocked_ptr, key_ptr, length, number, ahead, behind, first,
    count, scale, weight, SQUASH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The best partner of a proposing token, under its score with the gains of both."""
    pair = tl.program_id(0).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    row = first + 2 * pair
    square_ptr += batch * length
    near_ptr += batch * (count + 1) * number
    if scale is None:  # by the mean over the image, from the sums that follow the distances
        total = 0.0
        for start in range(0, number, BLOCK):
            each = start + tl.arange(0, BLOCK)
            sums = tl.load(near_ptr + count * number + each, mask=each < number, other=0.0)
            total += tl.sum(sums, 0)
        mean = total / number / count
        # The floor keeps an image of duplicates at 0 / tiny = 0 instead of 0 / 0.
        scale = -1.0 / tl.where(mean < 1e-12, 1e-12, mean)
    cols = tl.arange(0, BLOCK)
    inside = cols < behind
    places = 1 - first + 2 * cols
    dot_ptr += (batch * number + row) * length
    dot = tl.load(dot_ptr + places, mask=inside, other=0.0)
    col_length = length_of(tl.load(square_ptr + places, mask=inside, other=0.0))
    score = similarity(dot, length_of(tl.load(square_ptr + row)), col_length, SQUASH)
    score = score * _gain(near_ptr, places, inside, number, count, scale, weight)
    key = tl.where(inside, key_of(score, cols), NONE)
    best = tl.max(key, 0)
    if blocked_ptr is not None:
        blocked_ptr += batch * length
        held = tl.load(blocked_ptr + places, mask=inside, other=1) | tl.load(blocked_ptr + row)
        best = settled(best, tl.max(tl.where(held != 0, NONE, key), 0))
    # a row's own gain changes nothing about its best partner
    value = score_of(best) * _gain(near_ptr, row, row < number, number, count, scale, weight)
    proposal = key_of(value, place_of(best)) | (best & PREFERRED)
    tl.store(key_ptr + batch * ahead + pair, proposal)


def diverse_keys(
    x: Tensor,
    order: Tensor | None,
    blocked: Tensor | None,
    key: Tensor,
    first: int,
    candidates: int,
    diversity: Diversity,
    squash: bool,
) -> None:
    """Writes the keys of all proposals, each at its partner, into `key`, int64 `[B, Na]`."""
    batch, length, width = x.shape
    ahead, behind = key.shape[1], candidates - key.shape[1]
    weight, neighbours, tau = diversity
    # a width that is taken from an image is that of all its tokens
    number, count = length if tau is None else candidates, min(neighbours, length - 1)
    dot, square, near = (
        torch.empty((batch, *shape), device=x.device, dtype=torch.float32)
        for shape in ((number, length), (length,), (count + 1, number))
    )
    block = 64 if batch * length * number >= 64 * 64 * 64 else 32
    tiles, across = triton.cdiv(number, block), triton.cdiv(length, block)
    _product_kernel[(tiles * across + across - tiles, batch)](
        x, order, dot, square, length, number, tiles, width, *x.stride(),
        BLOCK=block, BLOCK_D=256 // x.element_size(),
    )  # fmt: skip
    wide = max(32, triton.next_power_of_2(length))
    _nearest_kernel[(number, batch)](
        dot, square, near, length, number, count, BLOCK=wide, num_warps=_warps(wide)
    )
    wide = max(32, triton.next_power_of_2(behind))
    _best_kernel[(ahead, batch)](
        dot, square, near, blocked, key, length, number, ahead, behind, first,
        count, None if tau is None else -1.0 / tau**2, weight / count,
        SQUASH=squash, BLOCK=wide, num_warps=_warps(wide),
    )  # fmt: skip


def _warps(wide: int) -> int:
    """Warps of a program over a row of `wide` numbers: 32 numbers a thread."""
    return min(16, max(1, wide // 1024))
