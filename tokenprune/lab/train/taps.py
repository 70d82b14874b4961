"""Stages that only look: they keep every token and remember what they were shown."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

from tokenprune.engine.stages import ResolvedStage
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.placement import Decoder
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.plan import StagePlan


class Tap(PruningStrategy[StrategyParams]):
    """A decoder stage that removes nothing.

    Args:
        wanted: the signals to read.
    """

    name = "tap"
    stages = (Decoder(),)
    length = "own"

    def __init__(self, wanted: Sequence[Signal] = ()) -> None:
        super().__init__(StrategyParams())
        self._wanted = tuple(wanted)
        self._seen: list[Tokens] = []

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """What was asked for."""
        return self._wanted

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Remember, and leave everything as it is."""
        self._seen.append(tokens)
        return Reduction.none()

    def tokens(self, rows: int) -> Tokens:
        """What it saw, in the order of the batch.

        Raises:
            UnsupportedCallError: the rows came in several groups of unequal shape.
        """
        if len(self._seen) != 1 or self._seen[0].hidden.shape[0] != rows:
            raise UnsupportedCallError(
                "the images of a training batch have different numbers of tokens.",
                where="train",
                remedy="Use --batch-size 1, or pictures of one size.",
            )
        return self._seen[0]


def tap_plan(layer: int) -> StagePlan:
    """The plan of a tap in front of an LLM layer."""
    return StagePlan(at="decoder", strategy=Tap.name, layer=layer)


def tapped(stage: ResolvedStage, layer: int, tap: Tap) -> ResolvedStage:
    """A decoder stage whose visual tokens a tap sees as well, before the stage acts on them.

    Args:
        stage: the stage, left as it is.
        layer: the LLM layer to look in front of, one of the stage's.
        tap: what looks.
    """
    inner, shown = stage.strategy, copy.copy(stage.strategy)

    def signals(site: Site) -> tuple[Signal, ...]:
        more = tap.signals(site) if site.layer == layer else ()
        return tuple(dict.fromkeys((*inner.signals(site), *more)))

    def reduce(tokens: Tokens, budget: Budget) -> Reduction:
        if tokens.site.layer == layer and tokens.kind == "visual":
            tap.reduce(tokens, budget)
        return inner.reduce(tokens, budget)

    vars(shown).update(signals=signals, reduce=reduce)
    return replace(stage, strategy=shown)
