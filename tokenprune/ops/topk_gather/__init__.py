"""Choosing the best tokens and taking everything that rides along with them."""

from typing import Any

import torch
from torch import Tensor

from tokenprune.ops.checks import require
from tokenprune.ops.registering import nothing, operation
from tokenprune.ops.riders import keep_riders, riders_back


def topk_gather(score: Tensor, k: int, *riders: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The `k` tokens with the largest scores, and their entries in every rider.

    Ties go to the lower index. NaN counts as less than everything, -inf included, so it is chosen
    only when nothing else is left.

    Args:
        score: `[B, N]`, compared in float32.
        k: how many to keep, 0..N.
        riders: each `[B, N, ...]`, of any type. Differentiable.

    Returns:
        Indices, int64 `[B, k]`, ascending, and the riders gathered to `[B, k, ...]`.

    Raises:
        ValueError: the shapes don't fit or `k` is out of range.
    """
    batch, tokens = score.shape
    require(0 <= k <= tokens, "k must be in 0..{}, not {}", tokens, k)
    for i, rider in enumerate(riders):
        require(
            tuple(rider.shape[:2]) == (batch, tokens),
            "rider {} must begin with [{}, {}], not {}",
            i,
            batch,
            tokens,
            tuple(rider.shape),
        )
    index, *gathered = topk_gather_op(score, k, list(riders))
    return index, tuple(gathered)


def topk_indices(score: Tensor, k: int) -> Tensor:
    """Indices of the `k` largest scores, ascending; see `topk_gather`.

    Args:
        score: `[B, N]`.
        k: how many, 0..N.

    Returns:
        int64 `[B, k]`.

    Raises:
        ValueError: `k` is out of range.
    """
    return topk_gather(score, k)[0]


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.save_for_backward(output[0])
    keep_riders(ctx, inputs[2])


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[None, None, list[Tensor | None]]:
    (index,) = ctx.saved_tensors
    return None, None, riders_back(ctx, grads[1:], index)


@operation("topk_gather", flops=nothing, gradient=(_backward, _keep_for_backward))
def topk_gather_op(score: Tensor, k: int, riders: list[Tensor]) -> list[Tensor]:
    """The registered operation: the indices, then the gathered riders."""
    batch = score.shape[0]
    index = score.new_empty((batch, k), dtype=torch.int64)
    return [index, *(rider.new_empty((batch, k, *rider.shape[2:])) for rider in riders)]
