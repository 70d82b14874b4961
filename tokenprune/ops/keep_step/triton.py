"""Triton: one launch for states, sizes and places; a further one for each rider."""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.launching import ceil_div, padded
from tokenprune.ops.rows_triton import as_integers, copied_rows


# Lengths differ from site to site; a program for each kind of number would be compiled otherwise.
@triton.jit(
    do_not_specialize=["ahead", "kept", "x_batch", "anchor_batch", "size_batch", "index_batch"]
)
def _keep_kernel(
    x_ptr, anchor_ptr, size_ptr, index_ptr, out_ptr, left_ptr, place_ptr, ahead, kept, width,
    x_batch, x_row, x_col, anchor_batch, anchor_col, size_batch, size_col, index_batch, index_col,
    BLOCK: tl.constexpr,
):  # fmt: skip
    left = ahead + kept
    batch = (tl.program_id(0) // left).to(tl.int64)
    mine = tl.program_id(0) % left
    dims = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    behind = mine >= ahead
    at = anchor_ptr + batch * anchor_batch + (mine - ahead).to(tl.int64) * anchor_col
    token = tl.load(at, mask=behind, other=0)
    row = tl.where(behind, ahead + token, mine)
    from_ptr = x_ptr + batch * x_batch + row * x_row + dims.to(tl.int64) * x_col
    to_ptr = out_ptr + (batch * left + mine) * width + dims
    tl.store(to_ptr, tl.load(from_ptr, mask=dims < width), mask=dims < width)
    # one program of those that share a row writes the rest
    writes = tl.program_id(1) == 0
    size = tl.load(size_ptr + batch * size_batch + row * size_col, mask=writes)
    tl.store(left_ptr + batch * left + mine, size, mask=writes)
    writes = writes & behind
    place = tl.load(index_ptr + batch * index_batch + token * index_col, mask=writes)
    tl.store(place_ptr + batch * kept + mine - ahead, place, mask=writes)


def keep_step(
    hidden: Tensor, anchor: Tensor, size: Tensor, index: Tensor, riders: list[Tensor]
) -> list[Tensor]:
    """See `tokenprune.ops.keep_step`."""
    batch, kept = anchor.shape
    ahead, width = hidden.shape[1] - index.shape[1], hidden.shape[2]
    left = ahead + kept
    states = torch.empty((batch, left, width), device=hidden.device, dtype=hidden.dtype)
    sizes = torch.empty((batch, left), device=size.device, dtype=size.dtype)
    place = torch.empty((batch, kept), device=index.device, dtype=index.dtype)
    if sizes.numel():
        source, target = as_integers(hidden), as_integers(states)
        block = padded(width, 16, 1024)
        _keep_kernel[(batch * left, max(1, ceil_div(width, block)))](
            source, anchor, size, index, target, sizes, place, ahead, kept, width,
            *source.stride(), *anchor.stride(), *size.stride(), *index.stride(), BLOCK=block,
        )  # fmt: skip
    along = anchor.contiguous() if riders else anchor
    return [states, sizes, place, *(copied_rows(rider, along) for rider in riders)]
