"""How far a token stands apart from its nearest neighbours."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from tokenprune.ops.checks import require
from tokenprune.ops.cosines import exponents
from tokenprune.ops.dispatch import run
from tokenprune.ops.registering import operation


def knn_density(x: Tensor, *, neighbours: int, tau: float | None) -> Tensor:
    """Sparsity of each token's surroundings: 0 for duplicates, towards 1 for tokens far from all.

    `d_i = 1 - mean_k exp(-||v_i - v_k||^2 / tau^2)` over the `neighbours` nearest other tokens of
    the same image, on L2-normalised features (a zero vector stays zero).

    Args:
        x: `[B, N, D]`, any float type; normalised in float32.
        neighbours: at most N - 1 are used; with N = 1 the token has none and gets 1.
        tau: width of the exponential; None takes `tau^2` as the mean squared distance to the
            neighbours, per image.

    Returns:
        float32 `[B, N]` in 0..1. Carries no gradient.

    Raises:
        ValueError: `neighbours` or `tau` isn't positive.

    Source: local density of EvoPrune (arXiv 2603.03681, section 3.4). Normalising first and the
    option None are this project's choice, not the paper's.
    """
    require(neighbours > 0, "neighbours must be positive, not {}", neighbours)
    require(tau is None or tau > 0, "tau must be positive, not {}", tau)
    batch, length, _ = x.shape
    count = min(neighbours, length - 1)
    if count < 1:
        return x.new_ones((batch, length), dtype=torch.float32)
    square: Tensor = knn_distance_op(x, count)
    return -exponents(square, tau).expm1().mean(-1)


def _flops(x: torch.Size, *_: Any, **__: Any) -> int:
    batch, length, width = x
    return 2 * batch * length * length * width


@operation("knn_distance", flops=_flops, computes=partial(run, "knn_density"))
def knn_distance_op(x: Tensor, count: int) -> Tensor:
    """Squared distances `[B, N, count]` to the nearest others, in no particular order."""
    return x.new_empty((x.shape[0], x.shape[1], count), dtype=torch.float32)
