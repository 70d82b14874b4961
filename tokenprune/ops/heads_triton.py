"""Triton: what kernels over heads of queries and keys share, and how large programs are."""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.launching import Sizes, ceil_div, launch, padded


@triton.jit
def begin(q_ptr, k_ptr, heads, group, q_batch, q_head, k_batch, k_head, EVEN: tl.constexpr):
    """Number of the program's head among all samples', its sample, its queries and its keys."""
    pair = tl.program_id(0).to(tl.int64)
    batch, head = pair // heads, pair % heads
    q_ptr += batch * q_batch + head * multiple(q_head, EVEN)
    k_ptr += batch * k_batch + (head // group) * multiple(k_head, EVEN)
    return pair, batch, q_ptr, k_ptr


@triton.jit
def multiple(number, EVEN: tl.constexpr):
    """A number that EVEN divides, written so that the compiler knows; it looks for 16 by itself."""
    return number // EVEN * EVEN


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


def even(query: Tensor, key: Tensor) -> int:
    """8 if it divides the heads' width and the steps from head to head, else 1.

    Loads of half precision then take 16 bytes each and are fetched ahead, also of heads that are 72
    or 88 wide.
    """
    return 8 if (query.shape[3] | query.stride(1) | key.stride(1)) % 8 == 0 else 1


def launch_size(kernel: str, width: int, item: int) -> Sizes:
    """Sizes of the programs of a kernel over heads of `width` numbers of `item` bytes."""
    # Bounds the shared memory: stages * (M + N) * D * item stays below 100 KB.
    wide = padded(width, 16)
    block = 64 if wide * item <= 256 else 32
    stages = 3 if wide * item <= 512 else 1
    own = {"BLOCK_M": block, "BLOCK_N": block, "BLOCK_D": wide, "num_stages": stages}
    return launch(f"{kernel} {wide}x{item}", own)


@triton.jit(do_not_specialize=["parts", "length", "skip", "counted"])
def _mean_kernel(
    sums_ptr, bias_ptr, out_ptr, heads, parts, length, skip, counted,
    BIASED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    cols = skip + tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    head = tl.arange(0, BLOCK_M)
    inside = cols < length
    at = (batch * heads + head)[:, None] * parts * length + cols[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for part in range(0, parts):
        mask = (head < heads)[:, None] & inside[None, :]
        total += tl.load(sums_ptr + at + part * length, mask=mask, other=0.0)
    mean = tl.sum(total, 0)
    if BIASED:
        bias = bias_of(bias_ptr + batch * length, cols, inside, 0.0, BIASED)
        # a hidden key's sum may be too large for a number, and infinity times 0 is none
        mean = tl.where(bias == float("-inf"), 0.0, mean * tl.exp(bias))
    tl.store(out_ptr + batch * (length - skip) + cols - skip, mean / (heads * counted), mask=inside)


def mean_of_heads(sums: Tensor, skip: int, counted: int = 1, bias: Tensor | None = None) -> Tensor:
    """Means over heads, `[B, T - skip]`, of sums `[B, H, P, T]` of which each has P parts.

    Parts and heads are added here, in a fixed order: atomic additions would not be deterministic.

    Args:
        sums: contiguous.
        skip: number of leading tokens to leave out.
        counted: numbers that a sum of one head is of.
        bias: `[B, T]`, contiguous, logarithms that the means are multiplied with; or None.
    """
    batch, heads, parts, length = sums.shape
    out = torch.empty((batch, length - skip), device=sums.device, dtype=torch.float32)
    _mean_kernel[(batch, ceil_div(length - skip, 32))](
        sums, sums if bias is None else bias, out, heads, parts, length, skip, counted,
        BIASED=bias is not None, BLOCK_M=padded(heads), BLOCK_N=32,
    )  # fmt: skip
    return out
