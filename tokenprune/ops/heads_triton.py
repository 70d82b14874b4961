"""Triton: what kernels over heads of queries and keys share, and how large programs are."""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201

import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.launching import Sizes, launch, padded


@triton.jit
def begin(q_ptr, k_ptr, heads, group, q_batch, q_head, k_batch, k_head):
    """Number of the program's head among all samples', its sample, its queries and its keys."""
    pair = tl.program_id(0).to(tl.int64)
    batch, head = pair // heads, pair % heads
    q_ptr += batch * q_batch + head * q_head
    k_ptr += batch * k_batch + (head // group) * k_head
    return pair, batch, q_ptr, k_ptr


@triton.jit
def rows_of(ptr, rows, length, width, row, col, BLOCK_D: tl.constexpr):
    """Rows of the queries or keys of a head, zeros where they are outside."""
    dims = tl.arange(0, BLOCK_D)
    inside = (rows[:, None] < length) & (dims[None, :] < width)
    return tl.load(ptr + rows[:, None] * row + dims[None, :] * col, mask=inside, other=0.0)


@triton.jit
def bias_of(ptr, cols, inside, outside, BIASED: tl.constexpr):
    """The biases of some keys of a sample; `outside` where there is no key."""
    if BIASED:
        bias = tl.load(ptr + cols, mask=inside, other=outside).to(tl.float32)
    else:
        bias = tl.where(inside, 0.0, outside)
    return bias


def launch_size(kernel: str, width: int, item: int) -> Sizes:
    """Sizes of the programs of a kernel over heads of `width` numbers of `item` bytes."""
    # Bounds the shared memory: stages * (M + N) * D * item stays below 100 KB.
    wide = padded(width, 16)
    block = 64 if wide * item <= 256 else 32
    stages = 3 if wide * item <= 512 else 1
    own = {"BLOCK_M": block, "BLOCK_N": block, "BLOCK_D": wide, "num_stages": stages}
    return launch(f"{kernel} {wide}x{item}", own)


def mean_of_heads(columns: Tensor, skip: int) -> Tensor:
    """What tokens receive, `[B, T - skip]`, from the sums of the columns `[B, H, T]` of each head.

    Heads are added here, in a fixed order: atomic additions would not be deterministic.
    """
    return columns[:, :, skip:].mean(1)
