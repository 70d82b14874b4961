"""Tokens that span the most: greedy mode of a determinantal point process (DPP)."""

from typing import Any

import torch
from torch import Tensor

from tokenprune.ops.picks import require_count, require_square
from tokenprune.ops.registering import operation


def dpp_select(kernel: Tensor, k: int) -> Tensor:
    """Greedy MAP inference of a DPP: each pick raises `log det kernel[S, S]` the most.

    By an incremental Cholesky factor: the determinant grows by the square of a token's part that
    the picks so far don't span, and a pick takes its direction out of all others, in `O(k N)`.

    Args:
        kernel: `[B, N, N]`, symmetric, without negative eigenvalues, for example
            `quality_i * cosine_ij * quality_j`. Rounded to float32; the factor is in float64,
            what is left of a token is compared in float32.
        k: how many to pick, 0..N.

    Returns:
        int64 `[B, k]`, in the order of picking, without repetition: the first `m` columns are the
        answer for `m`. Ties go to the lower index. Where every token left is spanned (of its own
        diagonal entry less than 1e-5 remains, which rounding can't tell from nothing), the largest
        diagonal entry is next (ours; released code divides by the rest). NaN counts as less than
        everything. Carries no gradient.

    Raises:
        ValueError: the shapes don't fit or `k` is out of range.

    Source: Chen et al., fast greedy MAP inference for DPPs (arXiv 1709.05135, algorithm 1), as
    CDPruner uses it (arXiv 2506.10967).
    """
    require_square("kernel", kernel)
    require_count(k, kernel.shape[1])
    index: Tensor = dpp_select_op(kernel, k)
    return index


def _flops(kernel: torch.Size, k: int, *_: Any, **__: Any) -> int:
    # Pick number t: t products and sums a token, then a division, a square and a difference.
    batch, tokens = kernel[:2]
    return batch * tokens * (k * (k - 1) + 3 * k)


@operation("dpp_select", flops=_flops)
def dpp_select_op(kernel: Tensor, k: int) -> Tensor:
    """The registered operation, declared by its answer; `dpp_select` checks its arguments."""
    return kernel.new_empty((kernel.shape[0], k), dtype=torch.int64)
