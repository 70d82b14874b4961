"""Triton: distances block by block, keeping only the nearest of each row."""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.cosines_triton import length_of, products
from tokenprune.ops.launching import ceil_div, padded


@triton.jit
def _nearest_kernel(
    x_ptr, out_ptr, length, width, x_batch, x_row, x_col,
    COUNT: tl.constexpr, SLOTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    x_ptr += batch * x_batch
    rows = tl.program_id(1).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    slots = tl.arange(0, SLOTS)
    # Slots past COUNT hold -inf, so they are never the largest and never replaced.
    kept = tl.where(slots[None, :] < COUNT, float("inf"), float("-inf"))
    kept = tl.broadcast_to(kept, [BLOCK_M, SLOTS])
    for start in range(0, length, BLOCK_N):
        cols = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        dot, row_square, col_square = products(
            x_ptr, x_ptr, rows, cols, length, length, width, x_row, x_col, x_row, x_col,
            BLOCK_M, BLOCK_N, BLOCK_D,
        )  # fmt: skip
        row_norm, col_norm = length_of(row_square), length_of(col_square)
        row_unit = row_square / row_norm / row_norm
        col_unit = col_square / col_norm / col_norm
        cosine = dot / row_norm[:, None] / col_norm[None, :]
        distance = tl.maximum(row_unit[:, None] + col_unit[None, :] - 2.0 * cosine, 0.0)
        other = (cols[None, :] < length) & (cols[None, :] != rows[:, None])
        distance = tl.where(other, distance, float("inf"))
        for _ in range(COUNT):
            least = tl.min(distance, 1)
            least_at = tl.min(tl.where(distance == least[:, None], cols[None, :], length), 1)
            distance = tl.where(cols[None, :] == least_at[:, None], float("inf"), distance)
            worst = tl.max(kept, 1)
            worst_at = tl.min(tl.where(kept == worst[:, None], slots[None, :], SLOTS), 1)
            replace = (slots[None, :] == worst_at[:, None]) & (least < worst)[:, None]
            kept = tl.where(replace, least[:, None], kept)
    at = out_ptr + (batch * length + rows[:, None]) * COUNT + slots[None, :]
    tl.store(at, kept, mask=(rows[:, None] < length) & (slots[None, :] < COUNT))


def knn_density(x: Tensor, count: int) -> Tensor:
    """Squared distances to the `count` nearest others; see `knn_distance_op`."""
    batch, length, width = x.shape
    out = torch.empty((batch, length, count), device=x.device, dtype=torch.float32)
    if out.numel() == 0:
        return out
    _nearest_kernel[(batch, ceil_div(length, 32))](
        x, out, length, width, *x.stride(),
        COUNT=count, SLOTS=padded(count), BLOCK_M=32, BLOCK_N=64, BLOCK_D=64,
    )  # fmt: skip
    return out
