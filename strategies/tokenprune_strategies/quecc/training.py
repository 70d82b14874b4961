"""How `quecc` learns: first where the projector's inputs lie, then from the answers.

The paper trains compressor and projector on captions first, then all on instructions. Here
projector and LLM stay frozen, so the new tokens have to come out among the features that the
projector knows. The first phase therefore learns the means of the windows (ours).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.trainable import Phase, Step, StepLoss

ALIGNMENT = Phase("alignment", 1.0)
ANSWERS = Phase("answers", 2.0)


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


def loss(answers: StepLoss, far: Tensor | None, step: Step) -> StepLoss:
    """The distance `far` in the first phase, then the answers' loss."""
    assert far is not None
    metrics = {**answers.metrics, "distance": float(far.detach())}
    return StepLoss(far if step.phase == ALIGNMENT.name else answers.loss, metrics)
