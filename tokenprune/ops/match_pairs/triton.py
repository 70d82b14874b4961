"""Triton: the best partner of every proposing token, then the rank of every proposal.

A rank is the number of better proposals. Counting them takes more comparisons than sorting does,
but one launch, and every program writes the pairs that it ranked where they belong.
"""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.keys_triton import NONE, moved, place_of
from tokenprune.ops.launching import ceil_div, padded
from tokenprune.ops.match_pairs import Diversity
from tokenprune.ops.match_pairs.diverse_triton import diverse_keys
from tokenprune.ops.match_pairs.pieces_triton import VARYING, settled, tokens_at
from tokenprune.ops.match_pairs.plain_triton import plain_keys


@triton.jit
def _best_of(key_ptr, rows, ahead, step, SPLITS: tl.constexpr):
    """Best keys of rows that several programs shared."""
    top = tl.load(key_ptr + rows, mask=rows < ahead, other=NONE)
    for split in tl.static_range(1, SPLITS):
        key = tl.load(key_ptr + split * step + rows, mask=rows < ahead, other=NONE)
        top = tl.maximum(top, key)
    return top


@triton.jit
def _proposals(key_ptr, rows, ahead, step, SPLITS: tl.constexpr, SETTLE: tl.constexpr):
    """Keys of proposals, each at its partner; not of use where there is no row."""
    top = _best_of(key_ptr, rows, ahead, step, SPLITS)
    if SETTLE:
        top = settled(top, _best_of(key_ptr + SPLITS * step, rows, ahead, step, SPLITS))
    return top


@triton.jit(do_not_specialize=VARYING)
def _rank_kernel(
    key_ptr, order_ptr, source_ptr, target_ptr, length, ahead, first, remove,
    SPLITS: tl.constexpr, SETTLE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    step = tl.num_programs(0).to(tl.int64) * ahead
    rows = tl.program_id(1).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    key_ptr += batch * ahead
    key = _proposals(key_ptr, rows, ahead, step, SPLITS, SETTLE)
    own = moved(key, rows)
    rank = tl.zeros([BLOCK_M], tl.int32)
    for start in range(0, ahead, BLOCK_N):
        others = start + tl.arange(0, BLOCK_N).to(tl.int64)
        other = _proposals(key_ptr, others, ahead, step, SPLITS, SETTLE)
        other = tl.where(others < ahead, moved(other, others), NONE)
        rank += tl.sum((other[None, :] > own[:, None]).to(tl.int32), 1)
    chosen = (rows < ahead) & (rank < remove)
    if order_ptr is not None:
        order_ptr += batch * length
    source = tokens_at(order_ptr, first + 2 * rows, chosen)
    target = tokens_at(order_ptr, 1 - first + 2 * place_of(key), chosen)
    tl.store(source_ptr + batch * remove + rank, source, mask=chosen)
    tl.store(target_ptr + batch * remove + rank, target, mask=chosen)


def match_pairs(
    x: Tensor,
    remove: int,
    first: int,
    order: Tensor | None,
    candidates: int,
    blocked: Tensor | None,
    diversity: Diversity | None,
    squash: bool,
) -> tuple[Tensor, Tensor]:
    """See `tokenprune.ops.match_pairs`."""
    batch, length, _ = x.shape
    source = torch.empty((batch, remove), device=x.device, dtype=torch.int64)
    target = torch.empty_like(source)
    if source.numel() == 0:
        return source, target
    order = None if order is None else order.contiguous()
    blocked = None if blocked is None else blocked.contiguous().view(torch.uint8)
    ahead, behind = (candidates + 1 - first) // 2, (candidates + first) // 2
    if diversity is None:
        key = plain_keys(x, order, blocked, first, ahead, behind, squash)
    else:
        key = diverse_keys(x, order, blocked, first, ahead, behind, diversity, squash)
    wide = padded(ahead, 32, 1024)
    _rank_kernel[(batch, ceil_div(ahead, 4))](
        key, order, source, target, length, ahead, first, remove,
        SPLITS=key.shape[1], SETTLE=key.shape[0] == 2, BLOCK_M=4, BLOCK_N=wide,
    )  # fmt: skip
    return source, target
