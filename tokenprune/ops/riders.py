"""What rides along with tokens of which some stay: checked, and given gradients."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokenprune.ops.checks import require


def require_riders(riders: Sequence[Tensor], batch: int, tokens: int) -> None:
    """Checks that riders are `[batch, tokens, ...]`."""
    wanted = (batch, tokens)
    for number, rider in enumerate(riders):
        require(tuple(rider.shape[:2]) == wanted, "rider {} must begin with {}", number, wanted)


def keep_riders(ctx: Any, riders: Sequence[Tensor]) -> None:
    """Keep what `riders_back` needs in a backward pass."""
    ctx.shapes = [rider.shape for rider in riders]
    ctx.needed = [rider.requires_grad for rider in riders]


def riders_back(ctx: Any, grads: Sequence[Tensor], stay: Tensor) -> list[Tensor | None]:
    """Gradients of riders `[B, N, ...]` from those of the tokens `stay` `[B, K]`."""
    sample = torch.arange(len(stay), device=stay.device)[:, None]
    return [
        grad.new_zeros(shape).index_put((sample, stay), grad) if needed else None
        for grad, shape, needed in zip(grads, ctx.shapes, ctx.needed, strict=True)
    ]
