"""Triton: rank every token by counting its betters, compact the chosen, copy their riders."""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@triton.jit
def _choose_kernel(score_ptr, chosen_ptr, tokens, k, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    batch = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    mine = tl.load(score_ptr + batch * tokens + rows, mask=rows < tokens, other=0.0)[:, None]
    mine_nan = mine != mine
    betters = tl.zeros([BLOCK_M], tl.int32)
    for start in range(0, tokens, BLOCK_N):
        cols = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        theirs = tl.load(score_ptr + batch * tokens + cols, mask=cols < tokens, other=0.0)[None, :]
        theirs_nan = theirs != theirs
        greater = (theirs > mine) | (mine_nan & (theirs == theirs))
        equal = (theirs == mine) | (mine_nan & theirs_nan)
        better = greater | (equal & (cols[None, :] < rows[:, None]))
        betters += tl.sum((better & (cols[None, :] < tokens)).to(tl.int32), 1)
    tl.store(chosen_ptr + batch * tokens + rows, (betters < k).to(tl.int8), mask=rows < tokens)


@triton.jit
def _compact_kernel(chosen_ptr, index_ptr, tokens, k, BLOCK_N: tl.constexpr):
    batch = tl.program_id(0).to(tl.int64)
    filled = 0
    for start in range(0, tokens, BLOCK_N):
        cols = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        chosen = tl.load(chosen_ptr + batch * tokens + cols, mask=cols < tokens, other=0)
        chosen = chosen.to(tl.int32)
        place = filled + tl.cumsum(chosen, 0) - 1
        tl.store(index_ptr + batch * k + place, cols, mask=(chosen != 0) & (cols < tokens))
        filled += tl.sum(chosen, 0)


@triton.jit
def _copy_kernel(
    rider_ptr, index_ptr, out_ptr, k, width, r_batch, r_row, r_col, BLOCK: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64)
    dims = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(index_ptr + place)
    at = rider_ptr + (place // k) * r_batch + token * r_row + dims * r_col
    tl.store(out_ptr + place * width + dims, tl.load(at, mask=dims < width), mask=dims < width)


def topk_gather(score: Tensor, k: int, riders: list[Tensor]) -> list[Tensor]:
    """See `tokenprune.ops.topk_gather`; the indices come first."""
    batch, tokens = score.shape
    index = torch.empty((batch, k), device=score.device, dtype=torch.int64)
    if index.numel():
        chosen = torch.empty((batch, tokens), device=score.device, dtype=torch.int8)
        _choose_kernel[(batch, triton.cdiv(tokens, 32))](
            score.to(torch.float32).contiguous(), chosen, tokens, k, BLOCK_M=32, BLOCK_N=128
        )
        _compact_kernel[(batch,)](chosen, index, tokens, k, BLOCK_N=512)
    return [index, *(_gather(rider, index) for rider in riders)]


def _gather(rider: Tensor, index: Tensor) -> Tensor:
    batch, k = index.shape
    out = torch.empty((batch, k, *rider.shape[2:]), device=rider.device, dtype=rider.dtype)
    if out.numel() == 0:
        return out
    source, target = _as_integers(rider), _as_integers(out)
    source = source.reshape(batch, rider.shape[1], -1)
    width = source.shape[2]
    block = min(1024, max(16, triton.next_power_of_2(width)))
    _copy_kernel[(batch * k, triton.cdiv(width, block))](
        source, index, target, k, width, *source.stride(), BLOCK=block
    )
    return out


def _as_integers(tensor: Tensor) -> Tensor:
    # Copying moves bits, so one kernel per item size serves every type.
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.view(_INTEGERS[tensor.element_size()])
