"""Budgets of a comparison's default rows: shares of the tokens that a model has of a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tokenprune.engine.adapters import choose_adapter, choose_encoder
from tokenprune.engine.attach import attach
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.loading import LoadedDual, LoadedMllm, LoadedModel
from tokenprune.lab.compare.defaults import (
    CLASSIFIER_KEEPS,
    CLASSIFIER_PATCHES,
    DETAIL_KEEPS,
    DETAIL_PATCHES,
    MLLM_KEEPS,
    MLLM_PATCHES,
)
from tokenprune.lab.data.question import Question
from tokenprune.lab.measure.checks import unpruned_tokens
from tokenprune.lab.measure.task import VqaTask
from tokenprune.plan import Plan


def encoder_keeps(loaded: LoadedModel) -> Sequence[int]:
    """The shares of `CLASSIFIER_KEEPS` on a dual encoder's own grid, which may be a small one."""
    if not isinstance(loaded, LoadedDual):
        return CLASSIFIER_KEEPS
    patches = math.prod(choose_encoder(loaded.model).spec().grid)
    return _shares(CLASSIFIER_KEEPS, CLASSIFIER_PATCHES, patches)


@dataclass(frozen=True)
class Shown:
    """What a multimodal LLM has of one picture, or of one frame.

    Attributes:
        units: visual tokens.
        tiles: pieces in which the tower sees it.
    """

    units: int
    tiles: float = 1.0

    @classmethod
    def to(cls, loaded: LoadedMllm, first: Question) -> Shown:
        """Of the tower's grid; where that says nothing, of the first question that is asked.

        Pictures may have any size, or be cut into tiles; then the plain model is asked.
        """
        adapter = choose_adapter(loaded.model)
        assert isinstance(adapter, MllmAdapter)
        tower = adapter.spec().tower
        if tower is not None:
            return cls(math.prod(choose_encoder(tower).spec().grid))
        asked = VqaTask(loaded, [first], 1, new_tokens=1)
        with torch.no_grad(), attach(loaded.model, Plan()) as handle:
            asked.call(asked.inputs([first]))
            meter = handle.meter
            return cls(round(unpruned_tokens(meter.tokens)), meter.tiles or 1.0)


def mllm_keeps(units: int, task: str) -> Sequence[int]:
    """The shares of the task's budgets in the visual tokens that a model has of its pictures."""
    if task == "detail":
        return _shares(DETAIL_KEEPS, DETAIL_PATCHES, units)
    return _shares(MLLM_KEEPS, MLLM_PATCHES, units)


def _shares(keeps: Sequence[int], whole: int, units: int) -> Sequence[int]:
    """Budgets on another number of tokens; of those that are one there, the first."""
    return [*dict.fromkeys(max(1, keep * units // whole) for keep in keeps)]
