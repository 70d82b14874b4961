"""The recipe: four stages, scheduled by steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenprune.reference.questions import TYPES
from training.reference_model.data import DataPlan
from training.reference_model.model import PATCHES
from training.reference_model.optimiser import Rates
from training.shared.recipe import Schedule


@dataclass(frozen=True, kw_only=True)
class Stage(Schedule):
    """One training stage.

    Attributes:
        data: batch and question sizes and the mix of types.
        tower: peak rates of the tower and its heads.
        lm: peak rates of projector and language model, or `None` to train the tower alone.
        tower_tokens: patches fed to the tower in most steps.
        full_every: every so many steps the tower gets all patches.
        dense_weight: weight of the dense tower loss.
        thin_share: share of steps in which patches are dropped or merged inside the tower.
        swap_share: share of steps in which the background tokens come from other pictures.
        drop_share: share of steps in which the language model gets a subset only.
        compact_share: share of steps in which the kept tokens are numbered anew.
    """

    data: DataPlan
    tower: Rates
    lm: Rates | None = None
    tower_tokens: int
    full_every: int
    dense_weight: float = 1.0
    thin_share: float = 0.0
    swap_share: float = 0.0
    drop_share: float = 0.67
    compact_share: float = 0.33


def _weights(**changed: float) -> tuple[float, ...]:
    return tuple(changed.get(name, 1.0) for name in TYPES)


def _recipe() -> tuple[Stage, ...]:
    bound = _weights(shape=2.0, relation=2.5, count=1.3)
    by_colour = _weights(colour=0.5, shape=3.0, count=2.0, exist=2.5, digit=0.5, where=0.7)
    behind: Any = {
        "lm": Rates(2.5e-3, 2e-3),
        "tower_tokens": 72,
        "full_every": 8,
        "dense_weight": 0.5,
    }
    return (
        Stage(
            name="tower",
            steps=1600,
            data=DataPlan(batch=64, questions=1, weights=_weights()),
            tower=Rates(3e-3, 1e-3),
            tower_tokens=64,
            full_every=10,
        ),
        Stage(
            name="language",
            steps=2000,
            data=DataPlan(batch=32, questions=12, weights=bound),
            tower=Rates(1.2e-3, 5e-4),
            **behind,
        ),
        Stage(
            name="binding",
            steps=900,
            data=DataPlan(batch=32, questions=12, weights=by_colour, helper_share=0.3),
            tower=Rates(8e-4, 4e-4),
            **behind,
        ),
        Stage(
            name="joint",
            steps=700,
            data=DataPlan(batch=32, questions=12, weights=by_colour, helper_share=0.05),
            tower=Rates(8e-4, 4e-4),
            lm=Rates(1.5e-3, 1e-3),
            tower_tokens=PATCHES,
            full_every=1,
            dense_weight=0.5,
            thin_share=0.3,
            swap_share=0.8,
        ),
    )


STAGES = _recipe()
