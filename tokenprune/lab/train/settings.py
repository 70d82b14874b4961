"""What a training run is told, and the phases of its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tokenprune.errors import DataError
from tokenprune.interface.trainable import Phase
from tokenprune.lab.probe.places import PROJECTOR

PRECISIONS = ("float32", "float16")
AUX = ("aux_weight", "aux_place")


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a run; the defaults are ours.

    Attributes:
        steps: optimiser steps over all phases.
        batch_size: questions a step.
        shared: questions about one picture, which share a pass through the encoder.
        lr: highest learning rate of AdamW; warm-up, then half a cosine in every phase.
        warmup: share of a phase that warms up.
        weight_decay: AdamW's.
        clip: largest norm of the gradient.
        seed: of data, weights and noise.
        save_every: steps between resumable checkpoints.
        precision: of the shipped weights, `float32` or `float16`.
        aux_weight: of the auxiliary loss; 0 for none. The paper's is 0.5.
        aux_place: where the kept tokens are read for it.
    """

    steps: int = 1000
    batch_size: int = 48
    shared: int = 6
    lr: float = 1e-3
    warmup: float = 0.03
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    save_every: int = 100
    precision: str = "float32"
    aux_weight: float = 0.0
    aux_place: str = PROJECTOR

    def __post_init__(self) -> None:
        """Refuse what can't be trained with.

        Raises:
            DataError: naming the option.
        """
        if self.shared < 1 or self.batch_size % self.shared:
            raise DataError(
                f"{self.batch_size} questions can't be {self.shared} a picture.",
                where="--batch-size",
                remedy="Make the batch size a multiple of --per-picture.",
            )
        if self.precision not in PRECISIONS:
            raise DataError(
                f"there is no precision '{self.precision}'.",
                where="--precision",
                remedy=f"Use {' or '.join(PRECISIONS)}.",
            )
        if not 0 <= self.aux_weight < math.inf:
            raise DataError(
                f"{self.aux_weight} is no weight of a loss.",
                where="--aux-weight",
                remedy="Use a number from 0 on.",
            )

    @property
    def pictures(self) -> int:
        """Pictures a step."""
        return self.batch_size // self.shared

    def data(self) -> dict[str, Any]:
        """Plain data for the record, without the auxiliary loss if there is none."""
        told = asdict(self)
        return told if self.aux_weight else {name: told[name] for name in told if name not in AUX}


@dataclass(frozen=True)
class Span:
    """The steps of one phase, `start` included, `end` not."""

    phase: Phase
    start: int
    end: int


def spans(phases: Sequence[Phase], steps: int) -> list[Span]:
    """The steps of every phase by the phases' shares; the last one takes what rounding leaves.

    Raises:
        DataError: a phase would have no step.
    """
    total, done, found = sum(phase.share for phase in phases), 0.0, []
    edge = 0
    for phase in phases:
        done += phase.share
        end = steps if phase is phases[-1] else round(steps * done / total)
        if end <= edge:
            raise DataError(
                f"{steps} steps leave none for the phase '{phase.name}'.",
                where="--steps",
                remedy=f"Train for at least {10 * len(phases)} steps.",
            )
        found.append(Span(phase, edge, end))
        edge = end
    return found


def rate(step: int, every: Sequence[Span], warmup: float) -> float:
    """Factor on the learning rate: linear warm-up, then half a cosine to 0, in every phase."""
    span = next((span for span in every if span.start <= step < span.end), every[-1])
    length, place = span.end - span.start, step - span.start
    warm = round(warmup * length)
    if place < warm:
        return (place + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (place - warm) / max(length - warm, 1)))
