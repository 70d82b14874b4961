"""Triton: what the kernels of a match share: places of candidates, scores, blocked pairs.

Candidates propose and receive in turn, so every place is `first + 2 * number`.
"""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201

import triton
import triton.language as tl

from tokenprune.ops.keys_triton import NONE, PREFERRED, key_of, score_of

VARYING = (
    "length", "number", "tiles", "ahead", "behind", "first", "span", "count", "remove",
)  # fmt: skip
"""Numbers that change from site to site; a kernel isn't compiled anew for those of a kind."""


@triton.jit
def tokens_at(order_ptr, places, inside):
    """Tokens at some places of the order, int64; without an order the places themselves."""
    if order_ptr is None:
        return places
    else:
        return tl.load(order_ptr + places, mask=inside, other=0)


@triton.jit
def similarity(dot, row_length, col_length, SQUASH: tl.constexpr):
    """The score of pairs by their products and lengths."""
    score = dot / (row_length * col_length)
    if SQUASH:
        score = (score + 1.0) * 0.5
    return score


@triton.jit
def pair_keys(score, cols, inside):
    """Keys of scores `[M, N]` at the receiving tokens `[N]`."""
    return tl.where(inside[None, :], key_of(score, cols[None, :]), NONE)


@triton.jit
def settled(top, free):
    """Best keys of rows, preferred where a pair of free tokens was found.

    Args:
        top: best of all pairs.
        free: best of those of which neither token is blocked. Its score may be NaN, or `free` be
            NONE: then the row is not preferred and takes the best of all, as in the reference.
    """
    return tl.where(score_of(free) > float("-inf"), free + PREFERRED, top)
