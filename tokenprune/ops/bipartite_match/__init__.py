"""Best partner of every token of one set in another, without the matrix of all pairs."""

from typing import Any

import torch
from torch import Tensor

from tokenprune.ops.checks import require, require_rows
from tokenprune.ops.dispatch import run
from tokenprune.ops.registering import operation


def bipartite_match(
    a: Tensor,
    b: Tensor,
    *,
    gain_a: Tensor | None = None,
    gain_b: Tensor | None = None,
    bias_a: Tensor | None = None,
    bias_b: Tensor | None = None,
    block_a: Tensor | None = None,
    block_b: Tensor | None = None,
    squash: bool = False,
) -> tuple[Tensor, Tensor]:
    """For every token of `a`, the token of `b` with the highest score.

    `score[i, j] = sim[i, j] * gain_a[i] * gain_b[j] + bias_a[i] + bias_b[j]`, and -inf where `i` or
    `j` is blocked. `sim` is the cosine; a zero vector has cosine 0 to everything.

    Args:
        a: `[B, Na, D]`, any float type; normalised in float32.
        b: `[B, Nb, D]`.
        gain_a: `[B, Na]` factors.
        gain_b: `[B, Nb]` factors.
        bias_a: `[B, Na]` summands.
        bias_b: `[B, Nb]` summands.
        block_a: bool `[B, Na]`, True for tokens that must not be matched.
        block_b: bool `[B, Nb]`.
        squash: use `(1 + cos) / 2`, which keeps the order of negative cosines under gains.

    Returns:
        Best score, float32 `[B, Na]`, and its index in `b`, int64 `[B, Na]`: the lowest on ties,
        and 0 with score -inf if everything is blocked. Neither carries a gradient.

    Raises:
        ValueError: the shapes don't fit, or `b` is empty.

    Source: bipartite soft matching of ToMe (arXiv 2210.09461) with the pair score of EvoPrune
    (arXiv 2603.03681, section 3.3).
    """
    batch, rows, width = a.shape
    cols = b.shape[1]
    require(
        b.shape[0] == batch and b.shape[2] == width,
        "a {} and b {} don't fit together",
        tuple(a.shape),
        tuple(b.shape),
    )
    require(cols > 0, "b must hold at least one token")
    for name, tensor, length in (
        ("gain_a", gain_a, rows), ("bias_a", bias_a, rows), ("block_a", block_a, rows),
        ("gain_b", gain_b, cols), ("bias_b", bias_b, cols), ("block_b", block_b, cols),
    ):  # fmt: skip
        require_rows(name, tensor, batch, length)
    value, index = bipartite_match_op(
        a, b, gain_a, gain_b, bias_a, bias_b, block_a, block_b, squash
    )
    return value, index


def _flops(a: torch.Size, b: torch.Size, *_: Any, **__: Any) -> int:
    batch, rows, width = a
    return 2 * batch * rows * b[1] * width


def _in_pairs(a: Tensor, b: Tensor, *each: Any) -> tuple[Tensor, Tensor]:
    """Gains, biases and blocks as pairs."""
    value, index = run("bipartite_match", a, b, each[:2], each[2:4], each[4:6], each[6])
    return value, index


@operation("bipartite_match", flops=_flops, computes=_in_pairs)
def bipartite_match_op(
    a: Tensor,
    b: Tensor,
    gain_a: Tensor | None,
    gain_b: Tensor | None,
    bias_a: Tensor | None,
    bias_b: Tensor | None,
    block_a: Tensor | None,
    block_b: Tensor | None,
    squash: bool,
) -> tuple[Tensor, Tensor]:
    """The registered operation, declared by its answer; `bipartite_match` checks its arguments."""
    shape = a.shape[:2]
    return a.new_empty(shape, dtype=torch.float32), a.new_empty(shape, dtype=torch.int64)
