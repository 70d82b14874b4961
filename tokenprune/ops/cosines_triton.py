"""Triton: products of rows that are too wide for one program, and lengths to divide them by."""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201

import triton
import triton.language as tl


@triton.jit
def products(
    a_ptr, b_ptr, rows, cols, n_a, n_b, width, a_row, a_col, b_row, b_col,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    SQUARES: tl.constexpr = True,
):  # fmt: skip
    """Products of some rows of `a` with some of `b`, and the squared lengths of both.

    Without SQUARES the lengths are left at zero: to take them costs as much as the products do.
    """
    dot = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    a_square = tl.zeros([BLOCK_M], tl.float32)
    b_square = tl.zeros([BLOCK_N], tl.float32)
    for first in range(0, width, BLOCK_D):
        dims = first + tl.arange(0, BLOCK_D)
        a_at = a_ptr + rows[:, None] * a_row + dims[None, :] * a_col
        b_at = b_ptr + cols[:, None] * b_row + dims[None, :] * b_col
        a = tl.load(a_at, mask=(rows[:, None] < n_a) & (dims[None, :] < width), other=0.0)
        b = tl.load(b_at, mask=(cols[:, None] < n_b) & (dims[None, :] < width), other=0.0)
        dot += tl.dot(a, tl.trans(b), input_precision="ieee")
        if SQUARES:
            a_square += tl.sum(a.to(tl.float32) * a.to(tl.float32), 1)
            b_square += tl.sum(b.to(tl.float32) * b.to(tl.float32), 1)
    return dot, a_square, b_square


@triton.jit
def length_of(square):
    """Lengths that rows are divided by, as `torch.nn.functional.normalize` has them."""
    return tl.maximum(tl.sqrt(square), 1e-12)
