"""Triton: the pick of a greedy step, made anew by every program of the launch.

A greedy step needs the best of all tokens before it can update any. Each selection launches one
kernel a step: every program first looks through all scores of its sample, which is cheap and gives
the same pick everywhere, and then updates its own tokens into the other one of two buffers. The
end of a launch is the only barrier, so nothing is atomic and every run gives the same picks.
"""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201

import triton
import triton.language as tl


@triton.jit
def best(score_ptr, tokens, BLOCK: tl.constexpr):
    """Largest of `tokens` scores and its place, the lowest on ties; -inf is never chosen."""
    value = float("-inf")
    at = 0
    for start in range(0, tokens, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        score = tl.load(score_ptr + cols, mask=cols < tokens, other=float("-inf"))
        top = tl.max(score, 0)
        top_at = tl.min(tl.where(score == top, cols, tokens), 0)
        # Strictly greater: on ties the earlier block, and so the lower index, stays.
        better = top > value
        at = tl.where(better, top_at, at)
        value = tl.where(better, top, value)
    return value, at


@triton.jit
def ranked(score, taken, LOWEST: tl.constexpr):
    """Scores as `tokenprune.ops.picks.comparable` has them, and -inf for what is taken."""
    above = tl.where(score > LOWEST, score, LOWEST)
    return tl.where(taken, float("-inf"), above)
