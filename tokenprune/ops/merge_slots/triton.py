"""Triton: every token looks through all sources, for its own target and for how many come before.

A token that stays has as its number its place less the sources in front of that place. So no
program waits for another, and nothing is summed up along the sample.
"""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.launching import ceil_div, launch


# Lengths differ from site to site; a program for each kind of number would be compiled otherwise.
@triton.jit(do_not_specialize=["merged", "tokens", "source_batch", "target_batch"])
def _slots_kernel(
    source_ptr, target_ptr, anchor_ptr, slot_ptr, merged, tokens,
    source_batch, source_col, target_batch, target_col,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    own = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    source_ptr += batch * source_batch
    target_ptr += batch * target_batch
    # A token is a source once at most, so what is added to its own place is one step or none.
    step = tl.zeros([BLOCK_M, BLOCK_N], tl.int32)
    for start in range(0, merged, BLOCK_N):
        at = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        source = tl.load(source_ptr + at * source_col, mask=at < merged, other=-1).to(tl.int32)
        target = tl.load(target_ptr + at * target_col, mask=at < merged, other=0).to(tl.int32)
        moves = own[:, None] == source[None, :]
        step += tl.where(moves, target[None, :] - own[:, None], 0)
    into = own + tl.sum(step, 1)
    gone = tl.zeros([BLOCK_M, BLOCK_N], tl.int32)
    for start in range(0, merged, BLOCK_N):
        at = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        source = tl.load(source_ptr + at * source_col, mask=at < merged, other=tokens).to(tl.int32)
        gone += (source[None, :] < into[:, None]).to(tl.int32)
    slot = into - tl.sum(gone, 1)
    inside = own < tokens
    tl.store(slot_ptr + batch * tokens + own, slot.to(tl.int64), mask=inside)
    stays = inside & (into == own)
    tl.store(anchor_ptr + batch * (tokens - merged) + slot, own.to(tl.int64), mask=stays)


def merge_slots(source: Tensor, target: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """See `tokenprune.ops.merge_slots`."""
    batch, merged = source.shape
    anchor = torch.empty((batch, count - merged), device=source.device, dtype=torch.int64)
    slot = torch.empty((batch, count), device=source.device, dtype=torch.int64)
    if slot.numel():
        blocks = launch("merge_slots", {"BLOCK_M": 16, "BLOCK_N": 128})
        _slots_kernel[(batch, ceil_div(count, blocks["BLOCK_M"]))](
            source, target, anchor, slot, merged, count, *source.stride(), *target.stride(),
            **blocks,
        )  # fmt: skip
    return anchor, slot
