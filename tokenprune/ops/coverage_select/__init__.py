"""Tokens that cover all others best: greedy facility location."""

from typing import Any

import torch
from torch import Tensor

from tokenprune.ops.checks import require, require_rows
from tokenprune.ops.picks import require_count
from tokenprune.ops.registering import operation


def coverage_select(cover: Tensor, k: int, *, gain: Tensor | None = None) -> Tensor:
    """Greedy maximum of the coverage `sum_i max_j cover[i, j]` over the picks `j`.

    Nothing is covered at first. Each pick is the token with the largest
    `gain[j] * sum_i max(0, cover[i, j] - covered[i])`; then `covered[i]` rises to `cover[i, j]`.
    Sums only fall from pick to pick, rounded ones too. Plain torch therefore takes a sum anew only
    while its last value could still win (lazy greedy), with the same picks as if it took all.

    Args:
        cover: `[B, M, N]`, how well the token `j` of N covers the target `i` of M, in float32.
            Values below zero cover nothing.
        k: how many to pick, 0..N.
        gain: `[B, N]` factors on the sums, of any sign.

    Returns:
        int64 `[B, k]`, in the order of picking, without repetition: the first `m` columns are the
        answer for `m`. Ties go to the lower index. A token with NaN in its column counts as less
        than everything. Carries no gradient.

    Raises:
        ValueError: the shapes don't fit or `k` is out of range.

    Source: lazy greedy of Minoux (1978). SCOPE (arXiv 2510.24214) covers tokens by cosine with a
    gain, MMTok (arXiv 2508.18264) text and tokens by softmax rows.
    """
    require(cover.dim() == 3, "cover must be [B, M, N], not {}", tuple(cover.shape))
    require_count(k, cover.shape[2])
    require_rows("gain", gain, cover.shape[0], cover.shape[2])
    index: Tensor = coverage_select_op(cover, k, gain)
    return index


def _flops(cover: torch.Size, k: int, *_: Any, **__: Any) -> int:
    # A difference and a sum for each pair and pick; how much lazy greedy saves is in the data.
    batch, targets, tokens = cover
    return 2 * batch * targets * tokens * k


@operation("coverage_select", flops=_flops)
def coverage_select_op(cover: Tensor, k: int, gain: Tensor | None) -> Tensor:
    """The registered operation, declared by its answer; `coverage_select` checks its arguments."""
    return cover.new_empty((cover.shape[0], k), dtype=torch.int64)
