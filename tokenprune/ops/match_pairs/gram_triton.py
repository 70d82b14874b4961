"""Triton: products of all tokens, and the lengths that they are divided by."""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.cosines_triton import length_of, products
from tokenprune.ops.launching import ceil_div, launch
from tokenprune.ops.match_pairs.pieces_triton import VARYING, tokens_at

_PLENTY = 64**3  # products, from which on wide tiles are enough programs for a large GPU (ours)


@triton.jit(do_not_specialize=VARYING)
def _gram_kernel(
    x_ptr, order_ptr, dot_ptr, size_ptr, length, number, tiles, width, x_batch, x_row, x_col,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Products of the first `number` rows with all, and the lengths of all."""
    pair = tl.program_id(0).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    across = tl.cdiv(length, BLOCK)
    # The tiles on the diagonal have the lengths. The programs after those of the products
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
    # A limit instead of a mask joined with a scalar, which the interpreter of Triton 3.9 refuses.
    crossing = tl.where(down == over, length, 0)
    own = length_of(square)
    size_ptr += 2 * batch * length + rows
    tl.store(size_ptr, own, mask=rows < crossing)
    tl.store(size_ptr + length, 0.5 * (square / (own * own)), mask=rows < crossing)


def gram(x: Tensor, order: Tensor | None, number: int) -> tuple[Tensor, Tensor]:
    """Products of the first tokens of the order with all, `[B, number, N]`, and sizes, `[B, 2, N]`.

    Sizes are lengths, and half the squares of what is left of them where rows are divided by them,
    which is 1/2 or, of a zero vector, 0.
    Rows aren't brought to length 1 before, so that the products of tokens that are equal are too.
    """
    batch, length, width = x.shape
    dot = torch.empty((batch, number, length), device=x.device, dtype=torch.float32)
    size = torch.empty((batch, 2, length), device=x.device, dtype=torch.float32)
    item = x.element_size()
    name, block = ("gram", 64) if batch * length * number >= _PLENTY else ("gram few", 32)
    sizes = launch(f"{name} x{item}", {"BLOCK": block, "BLOCK_D": 256 // item})
    block = sizes["BLOCK"]
    tiles, across = ceil_div(number, block), ceil_div(length, block)
    _gram_kernel[(tiles * across + across - tiles, batch)](
        x, order, dot, size, length, number, tiles, width, *x.stride(),
        **sizes,
    )  # fmt: skip
    return dot, size
