"""The recipe: stages scheduled by steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenprune.reference.detail_questions import DETAIL_TYPES
from training.detail_model.data import DataPlan
from training.detail_model.model import PATCHES
from training.reference_model.optimiser import Rates
from training.shared.recipe import Schedule


@dataclass(frozen=True, kw_only=True)
class Stage(Schedule):
    """One training stage; it trains the tower, or all behind it, or everything.

    Attributes:
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
    """

    data: DataPlan
    tower: Rates | None = None
    lm: Rates | None = None
    tower_tokens: int = PATCHES
    full_every: int = 1
    replays: int = 1
    drop_share: float = 0.0
    most: int = PATCHES
    beside_weight: float = 1.0
    places_weight: float = 0.0


def _weights(**changed: float) -> tuple[float, ...]:
    return tuple(changed.get(name, 1.0) for name in DETAIL_TYPES)


def _seeing(name: str, steps: int, rates: Rates, *, full_every: int = 6, **more: Any) -> Stage:
    """A stage of the tower alone, on half of the patches in most steps."""
    data = DataPlan(batch=32, questions=1, weights=_weights())
    return Stage(
        name=name,
        steps=steps,
        data=data,
        tower=rates,
        tower_tokens=200,
        full_every=full_every,
        **more,
    )


def _answering(
    name: str, steps: int, rates: Rates, weights: tuple[float, ...], **more: Any
) -> Stage:
    """A stage of what stands behind the tower."""
    data = DataPlan(batch=16, questions=64, weights=weights)
    return Stage(name=name, steps=steps, data=data, lm=rates, replays=4, **more)


STAGES = (
    _seeing("tower", 600, Rates(2.5e-3, 1e-3), stop=300),
    # what stands beside an item stays unlearned at equal weights: most sides are empty
    _seeing("sides", 550, Rates(2e-3, 8e-4), beside_weight=6.0, stop=100),
    _seeing("glyphs", 200, Rates(2e-3, 8e-4), beside_weight=6.0),
    _answering(
        "language",
        1300,
        Rates(2.5e-3, 2e-3),
        _weights(count=2.0, colour=0.5, exist=0.7),
        drop_share=0.9,
        stop=400,
    ),
    # the same at a schedule that fits the time that was left
    _answering(
        "settle",
        560,
        Rates(2.2e-3, 1.6e-3),
        _weights(count=2.0, colour=0.3),
        drop_share=0.8,
        most=160,
        stop=400,
    ),
    # places were slow to come from coordinates alone
    _seeing("places", 280, Rates(1.5e-3, 6e-4), full_every=4, beside_weight=2.0, places_weight=1.0),
    _answering(
        "answers",
        850,
        Rates(2.2e-3, 1.6e-3),
        _weights(count=2.5, colour=0.3),
        drop_share=0.7,
        most=160,
    ),
    # counts were still rising when the stage before ended
    _answering(
        "counts",
        2300,
        Rates(2.0e-3, 1.4e-3),
        _weights(count=3.5, colour=0.2, digit=0.4, exist=0.8),
        drop_share=0.6,
        most=160,
    ),
)
