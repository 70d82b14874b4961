"""Triton: proposals under diversity, by the products of all tokens.

A program has one row, so a single image has hundreds of programs. The nearest of a row are found by
one maximum after the other; while the row is short by a single warp, which waits for no other.
"""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.ops.cosines import samples
from tokenprune.ops.keys_triton import (
    LOWEST,
    NONE,
    PREFERRED,
    bits_of,
    key_of,
    place_of,
    score_at,
    score_of,
)
from tokenprune.ops.launching import padded
from tokenprune.ops.match_pairs import Diversity
from tokenprune.ops.match_pairs.gram_triton import gram
from tokenprune.ops.match_pairs.pieces_triton import VARYING, settled, similarity


@triton.jit(do_not_specialize=VARYING)
def _nearest_kernel(
    dot_ptr, size_ptr, near_ptr, length, number, count, scale, weight, BLOCK: tl.constexpr
):
    """`exp(-w d)` of a row, by its squared distances to the nearest others.

    Without a scale, which then is the image's, these distances instead, nearest first, and their
    sum after them.
    """
    row = tl.program_id(0).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    inside = cols < length
    size_ptr += 2 * batch * length
    row_length, row_half = tl.load(size_ptr + row), tl.load(size_ptr + length + row)
    col_length = tl.load(size_ptr + cols, mask=inside, other=1.0)
    half = tl.load(size_ptr + length + cols, mask=inside, other=0.0)
    dot = tl.load(dot_ptr + (batch * number + row) * length + cols, mask=inside, other=0.0)
    # |u - v|^2 = |u|^2 + |v|^2 - 2 u v with lengths of 1 or 0; |u|^2 is the same along the row.
    near = dot / (row_length * col_length) - half
    bits = tl.where(inside & (cols != row), bits_of(near), LOWEST)
    if scale is None:
        near_ptr += batch * (count + 1) * number + row
    else:
        near_ptr += batch * number + row
    total, found = 0.0, 0
    while found < count:
        top = tl.max(bits, 0)
        equal = bits == top
        many = tl.sum(equal.to(tl.int32), 0)
        bits = tl.where(equal, LOWEST, bits)
        distance = 2.0 * row_half - 2.0 * score_at(top)
        distance = tl.where(distance < 0.0, 0.0, distance)  # NaN stays
        for _ in range(0, tl.minimum(many, count - found)):
            if scale is None:
                tl.store(near_ptr, distance)
                near_ptr += number
                total += distance
            else:
                total += tl.exp(distance * scale) - 1.0
        found += many
    if scale is not None:
        total = tl.exp(total * weight)
    tl.store(near_ptr, total)


@triton.jit
def _gains(near_ptr, row, cols, inside, number, count, scale, weight, BLOCK: tl.constexpr):
    """`exp(-w d)` of a row and of columns, by the distances d to the nearest others of each."""
    row_total = 0.0
    col_total = tl.zeros([BLOCK], tl.float32)
    for rank in tl.range(0, count, loop_unroll_factor=4):  # loads of several ranks at a time
        at = near_ptr + rank * number
        row_total += tl.exp(tl.load(at + row) * scale) - 1.0
        col_total += tl.exp(tl.load(at + cols, mask=inside, other=0.0) * scale) - 1.0
    return tl.exp(row_total * weight), tl.exp(col_total * weight)


@triton.jit(do_not_specialize=VARYING)
def _best_kernel(
    dot_ptr, size_ptr, near_ptr, blocked_ptr, key_ptr, length, number, ahead, behind, first,
    count, weight, SQUASH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The best partner of a proposing token, under its score with the gains of both.

    With a weight, gains are made of distances here, by the image's own scale.
    """
    pair = tl.program_id(0).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    row = first + 2 * pair
    size_ptr += 2 * batch * length
    cols = tl.arange(0, BLOCK)
    inside = cols < behind
    places = 1 - first + 2 * cols
    dot_ptr += (batch * number + row) * length
    dot = tl.load(dot_ptr + places, mask=inside, other=0.0)
    col_length = tl.load(size_ptr + places, mask=inside, other=1.0)
    score = similarity(dot, tl.load(size_ptr + row), col_length, SQUASH)
    if weight is None:
        near_ptr += batch * number
        row_gain = tl.load(near_ptr + row)
        col_gain = tl.load(near_ptr + places, mask=inside, other=0.0)
    else:
        near_ptr += batch * (count + 1) * number
        total = 0.0
        for start in range(0, number, BLOCK):
            each = start + tl.arange(0, BLOCK)
            sums = tl.load(near_ptr + count * number + each, mask=each < number, other=0.0)
            total += tl.sum(sums, 0)
        mean = total / number / count
        # The floor keeps an image of duplicates at 0 / tiny = 0 instead of 0 / 0.
        scale = -1.0 / tl.where(mean < 1e-12, 1e-12, mean)
        row_gain, col_gain = _gains(
            near_ptr, row, places, inside, number, count, scale, weight, BLOCK
        )
    score = score * col_gain
    key = tl.where(inside, key_of(score, cols), NONE)
    best = tl.max(key, 0)
    if blocked_ptr is not None:
        blocked_ptr += batch * length
        held = tl.load(blocked_ptr + places, mask=inside, other=1) | tl.load(blocked_ptr + row)
        best = settled(best, tl.max(tl.where(held != 0, NONE, key), 0))
    # a row's own gain changes nothing about its best partner
    value = score_of(best) * row_gain
    proposal = key_of(value, place_of(best)) | (best & PREFERRED)
    tl.store(key_ptr + batch * ahead + pair, proposal)


def diverse_keys(
    x: Tensor,
    order: Tensor | None,
    blocked: Tensor | None,
    first: int,
    ahead: int,
    behind: int,
    diversity: Diversity,
    squash: bool,
) -> Tensor:
    """Keys of all proposals, each at its partner, int64 `[1, 1, B, Na]`; as many as fit at once."""
    batch, length, _ = x.shape
    key = torch.empty((1, 1, batch, ahead), device=x.device, dtype=torch.int64)
    for part in samples(batch, length, x.device):
        given = (None if each is None else each[part] for each in (order, blocked))
        _fill(key[0, 0, part], x[part], *given, first, behind, diversity, squash)
    return key


def _fill(
    key: Tensor,
    x: Tensor,
    order: Tensor | None,
    blocked: Tensor | None,
    first: int,
    behind: int,
    diversity: Diversity,
    squash: bool,
) -> None:
    """Writes the keys of some samples, `[B, Na]`."""
    (batch, length, _), ahead = x.shape, key.shape[1]
    weight, neighbours, tau = diversity
    # a width that is taken from an image is that of all its tokens
    number, count = length if tau is None else ahead + behind, min(neighbours, length - 1)
    dot, size = gram(x, order, number)
    scale, weight = None if tau is None else -1.0 / tau**2, weight / count
    rows = count + 1 if tau is None else 1
    near = torch.empty((batch, rows, number), device=x.device, dtype=torch.float32)
    wide = padded(length, 32)
    _nearest_kernel[(number, batch)](
        dot, size, near, length, number, count, scale, weight,
        BLOCK=wide, num_warps=_warps(wide, 1024),
    )  # fmt: skip
    wide = padded(behind, 32)
    _best_kernel[(ahead, batch)](
        dot, size, near, blocked, key, length, number, ahead, behind, first,
        count, weight if tau is None else None,
        SQUASH=squash, BLOCK=wide, num_warps=_warps(wide, 128),
    )  # fmt: skip


def _warps(wide: int, each: int) -> int:
    """Warps of a program over a row of `wide` numbers, of which one takes `each` or more."""
    return min(8, max(1, wide // each))
