"""DPC-KNN: clusters around tokens that are dense and far from anything denser."""

from typing import Any

import torch
from torch import Tensor

from tokenprune.ops.checks import require
from tokenprune.ops.registering import operation


def cluster_dpc(x: Tensor, count: int, *, neighbours: int) -> tuple[Tensor, Tensor]:
    """Clusters around `count` density peaks.

    The density of a token is `exp(-mean_k ||v_i - v_k||^2 / D)` over its `neighbours` nearest, the
    token itself included. Its peak score is the density times the distance from the nearest denser
    token (from the farthest of all pairs, where none is denser). The tokens with the largest scores
    are the centres; every other token joins the nearest of them.

    Args:
        x: `[B, N, D]`, any float type; distances are Euclidean and in float32.
        count: number of clusters, 1..N.
        neighbours: k of the density; all N if there are fewer.

    Returns:
        Centres, int64 `[B, count]`, ascending, and for every token, int64 `[B, N]`, which of them
        it belongs to; a centre always belongs to itself. Of equals the lower index is the denser
        one, the centre, and the nearer centre (ours; released code adds noise). Neither carries a
        gradient. A NaN in `x` makes the clusters of its sample meaningless.

    Raises:
        ValueError: `count` is out of range or `neighbours` isn't positive.

    Source: DPC (Rodriguez and Laio, Science 2014) with the kNN density of Du et al. (2016), as in
    PruneVid (arXiv 2412.16117, stage 1), FastVID (arXiv 2503.11187) and HoliTom (arXiv 2505.21334).
    """
    require(x.dim() == 3, "x must be [B, N, D], not {}", tuple(x.shape))
    require(1 <= count <= x.shape[1], "count must be in 1..{}, not {}", x.shape[1], count)
    require(neighbours > 0, "neighbours must be positive, not {}", neighbours)
    centre, label = cluster_dpc_op(x, count, neighbours)
    return centre, label


def _flops(x: torch.Size, *_: Any, **__: Any) -> int:
    # The distances: a difference, a square and a sum for each pair and dimension.
    batch, tokens, width = x
    return 3 * batch * tokens * tokens * width


@operation("cluster_dpc", flops=_flops)
def cluster_dpc_op(x: Tensor, count: int, neighbours: int) -> tuple[Tensor, Tensor]:
    """The registered operation, declared by its answer; `cluster_dpc` checks its arguments."""
    batch, tokens = x.shape[:2]
    index = x.new_empty((batch, count), dtype=torch.int64)
    return index, x.new_empty((batch, tokens), dtype=torch.int64)
