"""How `covipal_style` learns: first to rank as a deep layer attends, then from the answers.

Source of the first phase: summaries of CoViPAL (arXiv 2508.17243). Of the second only the key bias,
the logarithm of a retention value, could be found. Its form is ours, and so are the temperatures,
the weight of the Kullback-Leibler term and the shares of the phases. Scores are standardised row
by row before the soft choice: else equal scores, under which every token is kept a little and none
is dropped, would be the cheapest answer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.errors import PlanError
from tokenprune.interface.signals import Signal
from tokenprune.interface.tokens import Tokens
from tokenprune.interface.trainable import (
    Batch,
    Phase,
    StepLoss,
    TrainingSession,
    TrainingStep,
    answer_loss,
)
from tokenprune_strategies.covipal.params import Queries

Scorer = Callable[[Tokens], Tensor]

#: The two readings of whose attention is learned.
GUIDES: dict[Queries, Signal] = {
    "text": Signal.QUESTION_ATTENTION_MEAN,
    "all": Signal.PROMPT_ATTENTION_MEAN,
}

GUIDANCE = Phase("guidance", 1.0)
ANSWERS = Phase("answers", 1.0)

#: Depth of the guidance layer: layer 16 of 28 in the paper, as a share of the layers for others.
DEPTH = 0.57
WARM, COLD = 1.0, 0.2
KL_WEIGHT = 1.0
EPSILON = 1e-6
HALVINGS = 40


def guidance_site(layers: int) -> int:
    """The layer in front of which the attention of the guidance layer is read.

    The last layer can't guide: nothing stands behind it.
    """
    return min(round(DEPTH * layers), layers - 2) + 1


def target(attention: Tensor) -> Tensor:
    """Attention on visual tokens `[B, N]`, scaled to a mean of 1 (ours)."""
    total = attention.sum(dim=1, keepdim=True).clamp(min=EPSILON)
    return attention / total * attention.shape[1]


def guidance_loss(score: Tensor, attention: Tensor) -> StepLoss:
    """Mean squared error of scores `[B, N]`, and how much of the best eighth they find."""
    wanted = target(attention.float())
    best = max(1, score.shape[1] // 8)
    found = wanted.gather(1, score.detach().topk(best, dim=1).indices).sum()
    ideal = wanted.topk(best, dim=1).values.sum()
    return StepLoss(F.mse_loss(score, wanted), {"attention_found": float(found / ideal)})


def retention(score: Tensor, keep: int, temperature: float) -> Tensor:
    """Soft top-k: m = sigmoid((S - lambda) / tau) with a sum of `keep` in every row.

    Args:
        score: `[B, N]`.
        keep: tokens to keep, less than N.
        temperature: tau.

    Returns:
        `[B, N]` in (0, 1). Lambda is found by bisection and carries no gradient of its own.
    """
    fixed = score.detach()
    margin = temperature * 20
    low = fixed.amin(dim=1, keepdim=True) - margin
    high = fixed.amax(dim=1, keepdim=True) + margin
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        many = torch.sigmoid((fixed - middle) / temperature).sum(dim=1, keepdim=True) > keep
        low, high = torch.where(many, middle, low), torch.where(many, high, middle)
    return torch.sigmoid((score - (low + high) / 2) / temperature)


def key_bias(score: Tensor, keep: int, progress: float) -> Tensor:
    """The log-retention bias `[B, N]`; tau falls from 1.0 to 0.2 on a geometric path."""
    temperature = WARM * (COLD / WARM) ** progress
    spread = score.std(dim=1, keepdim=True, correction=0).clamp(min=EPSILON)
    standard = (score - score.mean(dim=1, keepdim=True)) / spread
    return (retention(standard, keep, temperature) + EPSILON).log()


def answers_loss(
    session: TrainingSession, batch: Batch, step: TrainingStep, score: Tensor, dense: Tensor
) -> StepLoss:
    """Cross-entropy of the answers under the soft choice, and its distance from the dense model.

    Args:
        session: the model.
        batch: the batch.
        step: where in the phase.
        score: `[B, N]`, with gradients.
        dense: `[A, V]` logits of the unpruned model.
    """
    keep = session.budget(score.shape[1])
    bias = score * 0 if keep >= score.shape[1] else key_bias(score, keep, step.progress)
    logits = session.biased(batch, bias, first=session.layer)
    answers = answer_loss(logits, batch)
    distance = F.kl_div(
        logits.float().log_softmax(-1),
        dense.float().log_softmax(-1),
        log_target=True,
        reduction="batchmean",
    )
    return StepLoss(answers.loss + KL_WEIGHT * distance, answers.metrics)


def loss(
    session: TrainingSession,
    batch: Batch,
    step: TrainingStep,
    wanted: tuple[Signal, ...],
    scorer: Scorer,
    queries: Queries = "text",
) -> StepLoss:
    """The loss of a step in either phase.

    Args:
        session: the model.
        batch: the batch.
        step: where in the run.
        wanted: signals that the scorer reads.
        scorer: tokens -> scores `[B, N]`.
        queries: whose attention the first phase learns.

    Raises:
        PlanError: another stage removes tokens in front of the guidance layer.
    """
    site = guidance_site(session.shape.llm_layers)
    taps: dict[int, tuple[Signal, ...]] = {session.layer: wanted}
    if step.phase == GUIDANCE.name:
        taps[site] = (*taps.get(site, ()), GUIDES[queries])
    dense, seen = session.dense(batch, taps)
    score = scorer(seen[session.layer])
    if step.phase != GUIDANCE.name:
        return answers_loss(session, batch, step, score, dense)
    attention = seen[site].signal(GUIDES[queries])
    if attention.shape != score.shape:
        raise PlanError(
            f"{score.shape[1]} tokens are scored, and at the guidance layer, in front of layer "
            f"{site}, {attention.shape[1]} are left.",
            where="covipal_style",
            remedy="Train without the stages between them.",
        )
    return guidance_loss(score, attention)
