"""How the gates of `dyvte` learn when an exit would have done no harm.

Source: DyVTE (arXiv 2411.19628) and the structure of its released code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.errors import PlanError
from tokenprune.interface.signals import Signal
from tokenprune.interface.trainable import Batch, StepLoss, TrainingSession, TrainingStep, row_means
from tokenprune_strategies.dyvte.gates import ExitGates, text_state

AGREEMENT = 0.99
LOSS_RATIO = 1.03


def loss(
    session: TrainingSession, batch: Batch, step: TrainingStep, gates: ExitGates, slack: float = 0.0
) -> StepLoss:
    """Cross-entropy of one gate, drawn anew for every step, against whether it may fire.

    Args:
        session: the model.
        batch: the batch.
        step: where in the run; its generator draws the gate.
        gates: what learns.
        slack: see `harmless`.

    Raises:
        PlanError: no gate is asked at the plan's layers.
    """
    site = drawn(session.layers, len(gates.gates), step)
    layer = site - 1
    dense, seen = session.dense(batch, {site: (Signal.TEXT_STATES, Signal.TEXT_PLACE)})
    tokens = seen[site]
    with torch.no_grad():
        hidden = tokens.hidden.new_full((batch.labels.shape[0], 1), float("-inf"))
        blind = session.biased(batch, hidden, first=site)
    wanted = harmless(dense, blind, batch, slack)
    state = text_state(tokens.signal(Signal.TEXT_STATES), tokens.signal(Signal.TEXT_PLACE))
    logits: Tensor = gates(layer, state)
    right = (logits.detach().argmax(dim=1) == wanted).float().mean()
    return StepLoss(
        F.cross_entropy(logits, wanted),
        {
            "accuracy": float(right),
            f"accuracy_{layer}": float(right),
            f"may_exit_{layer}": float(wanted.float().mean()),
        },
    )


def drawn(layers: range, gates: int, step: TrainingStep) -> int:
    """One of the layers in front of which a gate is asked, from the step's generator.

    Gates of layers that the plan gives to other stages are never asked, and never drawn.

    Raises:
        PlanError: there is none.
    """
    sites = [layer for layer in layers if 0 < layer <= gates]
    if not sites:
        raise PlanError(
            f"no gate is asked at layers {layers.start} to {layers.stop - 1}.",
            where="dyvte",
            remedy=f"Give the stage layers from 1 to {gates}.",
        )
    return sites[int(torch.randint(len(sites), (1,), generator=step.generator, device="cpu"))]


def harmless(dense: Tensor, blind: Tensor, batch: Batch, slack: float = 0.0) -> Tensor:
    """Whether the answers are the same without the image: `[B]` int64, 1 if they are.

    More than 99 % of the answer's tokens have to agree, and the loss may be at most 1.03 times as
    large. The absolute slack beside it is ours: where the loss is near zero, a ratio says little.

    Args:
        dense: `[A, V]` logits of the whole model.
        blind: `[A, V]` logits with the image hidden from some layer on.
        batch: the batch.
        slack: loss, in nats, that may come on top.
    """
    same = (dense.argmax(dim=-1) == blind.argmax(dim=-1)).float()
    targets = batch.targets.to(dense.device)
    before, after = (
        row_means(F.cross_entropy(logits.float(), targets, reduction="none"), batch)
        for logits in (dense, blind)
    )
    fine = (row_means(same, batch) > AGREEMENT) & (after < LOSS_RATIO * before + slack)
    return fine.long()
