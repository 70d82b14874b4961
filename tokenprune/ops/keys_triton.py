"""Triton: a score and its place as one integer, so that one maximum finds both.

From the highest bit to the lowest: 0, whether the score is of the preferred kind (1 bit), the score
(32 bits), the place counted from behind (30 bits). The greater key is the one torch would name
first: preferred ones, then NaN, then high scores, then low places. No two keys are equal.
"""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201

import triton
import triton.language as tl

NONE = tl.constexpr(-1)
"""Below every key; its score is NaN."""
PREFERRED = tl.constexpr(1 << 62)
"""What a key gains by being of the preferred kind."""
LOWEST = tl.constexpr(-(1 << 31))
"""Below the bits of every score."""
_LAST = tl.constexpr((1 << 30) - 1)
_MIDDLE = tl.constexpr(1 << 31)
_NAN = tl.constexpr(0x7FFFFFFF)


@triton.jit
def bits_of(score):
    """float32 scores as int32 of the same order; NaN is above all, and `LOWEST` below."""
    bits = tl.where(score == 0.0, 0.0, score).to(tl.int32, bitcast=True)  # 0 and -0 are a tie
    bits = bits ^ ((bits >> 31) & _NAN)  # so that the bits of negative scores ascend as well
    return tl.where(score != score, _NAN, bits)


@triton.jit
def score_at(bits):
    """The scores of such integers."""
    return (bits ^ ((bits >> 31) & _NAN)).to(tl.float32, bitcast=True)


@triton.jit
def key_of(score, place):
    """Keys, not preferred, of float32 scores at places below 2^30."""
    return ((bits_of(score).to(tl.int64) + _MIDDLE) << 30) | (place.to(tl.int64) ^ _LAST)


@triton.jit
def score_of(key):
    """The scores of keys."""
    return score_at((((key >> 30) & ((1 << 32) - 1)) - _MIDDLE).to(tl.int32))


@triton.jit
def place_of(key):
    """The places of keys, int64."""
    return (key & _LAST) ^ _LAST


@triton.jit
def moved(key, place):
    """The same keys at other places."""
    return (key & ~_LAST) | (place.to(tl.int64) ^ _LAST)
