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

from tokenprune.ops.cosines import samples
from tokenprune.ops.cosines_triton import length_of, products
from tokenprune.ops.keys_triton import NONE, moved, place_of
from tokenprune.ops.match_pairs import Diversity
from tokenprune.ops.match_pairs.diverse_triton import diverse_keys
from tokenprune.ops.match_pairs.pieces_triton import pair_keys, settled, similarity, tokens_at

_VARYING = ("length", "ahead", "behind", "first", "span", "splits", "remove")
"""Numbers that change from site to site; a kernel isn't compiled anew for those of a kind."""
_PROGRAMS = 128  # about as many as a large GPU runs at once (ours)


@triton.jit(do_not_specialize=_VARYING)
def _match_kernel(
    x_ptr, order_ptr, blocked_ptr, key_ptr, length, width, ahead, behind, first, span,
    x_batch, x_row, x_col,
    SQUASH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    split = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(1).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    row_in = rows < ahead
    x_ptr += batch * x_batch
    if order_ptr is not None:
        order_ptr += batch * length
    # A row that is outside gets a token that is outside, so that `products` doesn't load it.
    row_at = tl.where(row_in, tokens_at(order_ptr, first + 2 * rows, row_in), length)
    if blocked_ptr is not None:
        blocked_ptr += batch * length
        row_held = tl.load(blocked_ptr + row_at, mask=row_in, other=1)
    top = tl.full([BLOCK_M], NONE, tl.int64)
    free = tl.full([BLOCK_M], NONE, tl.int64)
    for tile in range(0, span):
        cols = (split * span + tile) * BLOCK_N + tl.arange(0, BLOCK_N)
        col_in = cols < behind
        col_at = tl.where(col_in, tokens_at(order_ptr, 1 - first + 2 * cols, col_in), length)
        dot, row_square, col_square = products(
            x_ptr, x_ptr, row_at, col_at, length, length, width, x_row, x_col, x_row, x_col,
            BLOCK_M, BLOCK_N, BLOCK_D,
        )  # fmt: skip
        row_length, col_length = length_of(row_square), length_of(col_square)
        key = pair_keys(
            similarity(dot, row_length[:, None], col_length[None, :], SQUASH), cols, col_in
        )
        top = tl.maximum(top, tl.max(key, 1))
        if blocked_ptr is not None:
            col_held = tl.load(blocked_ptr + col_at, mask=col_in, other=1)
            held = (row_held[:, None] | col_held[None, :]) != 0
            free = tl.maximum(free, tl.max(tl.where(held, NONE, key), 1))
    splits, batches = tl.num_programs(2), tl.num_programs(0)
    key_ptr += (split * batches + batch) * ahead + rows
    tl.store(key_ptr, top, mask=row_in)
    if blocked_ptr is not None:
        tl.store(key_ptr + splits.to(tl.int64) * batches * ahead, free, mask=row_in)


@triton.jit
def _proposals(key_ptr, rows, ahead, splits, batches, SETTLE: tl.constexpr):
    """Keys of proposals, each at its partner: the best that the programs of a row found."""
    inside = rows < ahead
    top = tl.load(key_ptr + rows, mask=inside, other=NONE)
    if SETTLE:
        free = tl.load(key_ptr + splits * batches * ahead + rows, mask=inside, other=NONE)
    for split in range(1, splits):
        at = key_ptr + split * batches * ahead + rows
        top = tl.maximum(top, tl.load(at, mask=inside, other=NONE))
        if SETTLE:
            at += splits * batches * ahead
            free = tl.maximum(free, tl.load(at, mask=inside, other=NONE))
    if SETTLE:
        top = tl.where(inside, settled(top, free), NONE)
    return top


@triton.jit(do_not_specialize=_VARYING)
def _rank_kernel(
    key_ptr, order_ptr, source_ptr, target_ptr, length, ahead, first, splits, remove,
    SETTLE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    batches = tl.num_programs(0).to(tl.int64)
    rows = tl.program_id(1).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    key_ptr += batch * ahead
    key = _proposals(key_ptr, rows, ahead, splits, batches, SETTLE)
    own = moved(key, rows)
    rank = tl.zeros([BLOCK_M], tl.int32)
    for start in range(0, ahead, BLOCK_N):
        others = start + tl.arange(0, BLOCK_N).to(tl.int64)
        other = _proposals(key_ptr, others, ahead, splits, batches, SETTLE)
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
    batch, length, width = x.shape
    source = torch.empty((batch, remove), device=x.device, dtype=torch.int64)
    target = torch.empty_like(source)
    if source.numel() == 0:
        return source, target
    order = None if order is None else order.contiguous()
    blocked = None if blocked is None else blocked.contiguous().view(torch.uint8)
    ahead, behind = (candidates + 1 - first) // 2, (candidates + first) // 2
    settle = blocked is not None and diversity is None
    block, span, splits = _tiles(batch, ahead, behind) if diversity is None else (0, 1, 1)
    key = torch.empty((1 + settle, splits, batch, ahead), device=x.device, dtype=torch.int64)
    if diversity is None:
        _match_kernel[(batch, triton.cdiv(ahead, block), splits)](
            x, order, blocked, key, length, width, ahead, behind, first, span, *x.stride(),
            SQUASH=squash, BLOCK_M=block, BLOCK_N=block, BLOCK_D=256 // x.element_size(),
        )  # fmt: skip
    else:
        for part in samples(batch, length, x.device):
            diverse_keys(
                x[part], None if order is None else order[part],
                None if blocked is None else blocked[part], key[0, 0, part],
                first, candidates, diversity, squash,
            )  # fmt: skip
    _rank_kernel[(batch, triton.cdiv(ahead, 4))](
        key, order, source, target, length, ahead, first, splits, remove,
        SETTLE=settle, BLOCK_M=4, BLOCK_N=min(1024, max(32, triton.next_power_of_2(ahead))),
    )  # fmt: skip
    return source, target


def _tiles(batch: int, ahead: int, behind: int) -> tuple[int, int, int]:
    """Width of tiles, how many of them a program takes, and how many programs share a row."""
    block = 64 if batch * triton.cdiv(ahead, 64) * triton.cdiv(behind, 64) >= _PROGRAMS else 32
    rows, cols = batch * triton.cdiv(ahead, block), triton.cdiv(behind, block)
    span = triton.cdiv(cols, min(cols, triton.cdiv(_PROGRAMS, rows)))
    return block, span, triton.cdiv(cols, span)
