"""Triton: copies of rows of dense batches, of any type."""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.launching import ceil_div, padded

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@triton.jit
def _copy_kernel(
    rider_ptr, index_ptr, out_ptr, k, width, r_batch, r_row, r_col, BLOCK: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64)
    dims = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(index_ptr + place)
    at = rider_ptr + (place // k) * r_batch + token * r_row + dims * r_col
    tl.store(out_ptr + place * width + dims, tl.load(at, mask=dims < width), mask=dims < width)


def copied_rows(rider: Tensor, index: Tensor) -> Tensor:
    """Rows of `rider` `[B, N, ...]` at `index`, int64 `[B, K]`, contiguous -> `[B, K, ...]`."""
    batch, k = index.shape
    out = torch.empty((batch, k, *rider.shape[2:]), device=rider.device, dtype=rider.dtype)
    if out.numel() == 0:
        return out
    source, target = as_integers(rider), as_integers(out)
    source = source.reshape(batch, rider.shape[1], -1)
    width = source.shape[2]
    block = padded(width, 16, 1024)
    _copy_kernel[(batch * k, ceil_div(width, block))](
        source, index, target, k, width, *source.stride(), BLOCK=block
    )
    return out


def as_integers(tensor: Tensor) -> Tensor:
    """The same bits as integers: copying moves these, so one kernel an item size serves all."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.view(_INTEGERS[tensor.element_size()])
