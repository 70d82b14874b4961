"""The recipe: stages scheduled by steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tokenprune.reference.detail_questions import DETAIL_TYPES
from training.detail_model.data import DataPlan
from training.detail_model.model import PATCHES
from training.reference_model.optimiser import Rates


@dataclass(frozen=True)
class Stage:
    """One training stage; it trains the tower, or all behind it, or everything.

    Attributes:
        name: also the name of its checkpoint.
        steps: optimiser steps.
        data: batch and question sizes and the mix of types.
        tower: peak rates of the tower and its heads, or `None` to freeze it.
        lm: peak rates of projector and language model, or `None` to leave it out.
        tower_tokens: patches fed to the tower in most steps.
        full_every: every so many steps the tower gets all patches.
        replays: steps that a batch of pictures serves, each with questions of its own.
        drop_share: share of steps in which the language model gets a subset only, which holds a
            patch of every item.
        most: tokens of such a subset.
        beside_weight: of a neighbour in the dense loss; that of an empty side is one.
        places_weight: of naming an item's column and row in the dense loss.
        stop: steps after which the stage ends, before its schedule does.
    """

    name: str
    steps: int
    data: DataPlan
    tower: Rates | None
    lm: Rates | None
    tower_tokens: int = PATCHES
    full_every: int = 1
    replays: int = 1
    drop_share: float = 0.0
    most: int = PATCHES
    beside_weight: float = 1.0
    places_weight: float = 0.0
    stop: int | None = None

    @property
    def taken(self) -> int:
        """Steps that the stage takes."""
        return self.steps if self.stop is None else min(self.stop, self.steps)


def _weights(**changed: float) -> tuple[float, ...]:
    return tuple(changed.get(name, 1.0) for name in DETAIL_TYPES)


STAGES = (
    Stage(
        name="tower",
        steps=600,
        data=DataPlan(batch=32, questions=1, weights=_weights()),
        tower=Rates(2.5e-3, 1e-3),
        lm=None,
        tower_tokens=200,
        full_every=6,
        stop=300,
    ),
    # what stands beside an item stays unlearned at equal weights: most sides are empty
    Stage(
        name="sides",
        steps=550,
        data=DataPlan(batch=32, questions=1, weights=_weights()),
        tower=Rates(2e-3, 8e-4),
        lm=None,
        tower_tokens=200,
        full_every=6,
        beside_weight=6.0,
        stop=100,
    ),
    Stage(
        name="glyphs",
        steps=200,
        data=DataPlan(batch=32, questions=1, weights=_weights()),
        tower=Rates(2e-3, 8e-4),
        lm=None,
        tower_tokens=200,
        full_every=6,
        beside_weight=6.0,
    ),
    Stage(
        name="language",
        steps=1300,
        data=DataPlan(batch=16, questions=64, weights=_weights(count=2.0, colour=0.5, exist=0.7)),
        tower=None,
        lm=Rates(2.5e-3, 2e-3),
        replays=4,
        drop_share=0.9,
        stop=400,
    ),
    # the same at a schedule that fits the time that was left
    Stage(
        name="settle",
        steps=560,
        data=DataPlan(batch=16, questions=64, weights=_weights(count=2.0, colour=0.3)),
        tower=None,
        lm=Rates(2.2e-3, 1.6e-3),
        replays=4,
        drop_share=0.8,
        most=160,
        stop=400,
    ),
    # places were slow to come from coordinates alone
    Stage(
        name="places",
        steps=280,
        data=DataPlan(batch=32, questions=1, weights=_weights()),
        tower=Rates(1.5e-3, 6e-4),
        lm=None,
        tower_tokens=200,
        full_every=4,
        beside_weight=2.0,
        places_weight=1.0,
    ),
    Stage(
        name="answers",
        steps=850,
        data=DataPlan(batch=16, questions=64, weights=_weights(count=2.5, colour=0.3)),
        tower=None,
        lm=Rates(2.2e-3, 1.6e-3),
        replays=4,
        drop_share=0.7,
        most=160,
    ),
    # counts were still rising when the stage before ended
    Stage(
        name="counts",
        steps=2300,
        data=DataPlan(
            batch=16, questions=64, weights=_weights(count=3.5, colour=0.2, digit=0.4, exist=0.8)
        ),
        tower=None,
        lm=Rates(2.0e-3, 1.4e-3),
        replays=4,
        drop_share=0.6,
        most=160,
    ),
)


def scaled(stage: Stage, factor: float) -> Stage:
    """The same stage with fewer or more steps, for smoke runs."""
    stop = None if stage.stop is None else max(2, round(stage.stop * factor))
    return replace(stage, steps=max(2, round(stage.steps * factor)), stop=stop)
