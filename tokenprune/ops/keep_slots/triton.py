"""Triton: every token looks for itself among the kept ones, so nothing has to be filled first."""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.launching import ceil_div, launch


# Lengths differ from site to site; a program for each kind of number would be compiled otherwise.
@triton.jit(do_not_specialize=["kept", "tokens", "index_batch"])
def _slots_kernel(
    index_ptr, slot_ptr, kept, tokens, index_batch, index_col,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    own = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    index_ptr += batch * index_batch
    number = tl.full([BLOCK_M, BLOCK_N], -1, tl.int32)
    for start in range(0, kept, BLOCK_N):
        at = start + tl.arange(0, BLOCK_N)
        token = tl.load(index_ptr + at.to(tl.int64) * index_col, mask=at < kept, other=-1)
        number = tl.where(own[:, None] == token.to(tl.int32)[None, :], at[None, :], number)
    slot = tl.max(number, 1).to(tl.int64)
    tl.store(slot_ptr + batch * tokens + own, slot, mask=own < tokens)


def keep_slots(index: Tensor, count: int) -> Tensor:
    """See `tokenprune.ops.keep_slots`."""
    batch, kept = index.shape
    slot = torch.empty((batch, count), device=index.device, dtype=torch.int64)
    if slot.numel():
        blocks = launch("keep_slots", {"BLOCK_M": 16, "BLOCK_N": 128})
        _slots_kernel[(batch, ceil_div(count, blocks["BLOCK_M"]))](
            index, slot, kept, count, *index.stride(), **blocks
        )
    return slot
