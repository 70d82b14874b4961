"""Triton: every slot looks through all tokens of its sample, so nothing is added atomically."""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.launching import ceil_div


@triton.jit
def _sum_kernel(
    value_ptr, slot_ptr, out_ptr, tokens, length,
    BLOCK_S: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    slots = tl.program_id(1).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)
    sums = tl.zeros([BLOCK_S], tl.float32)
    for start in range(0, tokens, BLOCK_N):
        at = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        inside = at < tokens
        slot = tl.load(slot_ptr + batch * tokens + at, mask=inside, other=-1)
        value = tl.load(value_ptr + batch * tokens + at, mask=inside, other=0.0)
        sums += tl.sum(tl.where(slot[None, :] == slots[:, None], value[None, :], 0.0), 1)
    tl.store(out_ptr + batch * length + slots, sums, mask=slots < length)


def sum_compact(values: Tensor, slot: Tensor, length: int) -> Tensor:
    """See `tokenprune.ops.sum_compact`."""
    batch, tokens = values.shape
    out = torch.empty((batch, length), device=values.device, dtype=torch.float32)
    if out.numel() == 0:
        return out
    _sum_kernel[(batch, ceil_div(length, 32))](
        values.to(torch.float32).contiguous(), slot.long().contiguous(), out, tokens, length,
        BLOCK_S=32, BLOCK_N=128,
    )  # fmt: skip
    return out
