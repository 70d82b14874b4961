"""How `quecc` learns: first where the projector's inputs lie, then from the answers.

The paper trains compressor and projector on captions first, then all on instructions. Here
projector and LLM stay frozen, so the new tokens have to come out among the features that the
projector knows. The first phase therefore learns the means of the windows, and the second keeps
their distance beside the answers' loss (ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tokenprune.interface.trainable import Phase, StepLoss

ALIGNMENT = Phase("alignment", 3.0)
ANSWERS = Phase("answers", 1.0)
DISTANCE_WEIGHT = 1.0


class Seen(NamedTuple):
    """The distance of the new tokens of one dense batch, and how many they are."""

    distance: Tensor
    tokens: int


def distance(created: Tensor, hidden: Tensor, slot: Tensor) -> Tensor:
    """Mean squared error of the new tokens against their windows' means, relative to the spread.

    Args:
        created: `[B, M, C]` with gradients.
        hidden: `[B, N, C]` patches.
        slot: `[N]` window of every patch.
    """
    hidden = hidden.detach().to(created.dtype)
    count = torch.bincount(slot, minlength=created.shape[1]).to(created)
    sums = torch.zeros_like(created, requires_grad=False).index_add(1, slot, hidden)
    means = sums / count[:, None]
    spread = means.var(dim=(0, 1), correction=0).mean().clamp(min=1e-8)
    return (created - means).square().mean() / spread


def mean_distance(seen: Sequence[Seen]) -> Tensor:
    """The distance `[]` over all shapes of a batch, every new token counted alike."""
    assert seen
    total = torch.stack([one.distance * one.tokens for one in seen]).sum()
    return total / sum(one.tokens for one in seen)


def alignment(seen: Sequence[Seen]) -> StepLoss:
    """The distance alone."""
    far = mean_distance(seen)
    return StepLoss(far, {"distance": float(far.detach())})


def loss(answers: StepLoss, seen: Sequence[Seen]) -> StepLoss:
    """The answers' loss and the distance, without which the new tokens drift off."""
    far = mean_distance(seen)
    metrics = {**answers.metrics, "distance": float(far.detach())}
    return StepLoss(answers.loss + DISTANCE_WEIGHT * far, metrics)
