"""Encoder strategies that see whole videos, with answers known beforehand."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch

from tests.plugin import registering
from tokenprune import Budget, PruningStrategy, Reduction, StrategyParams, Tokens
from tokenprune.interface.placement import Encoder
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site


class Across(PruningStrategy[StrategyParams]):
    """Merge the last tokens of every frame into the first token of the next frame.

    Those of the last frame go into its own first token. What was shown is put aside, and every
    token's number is left as a rider.
    """

    name = "t-across"
    stages = (Encoder(schedule=None),)
    seen: ClassVar[list[Tokens]] = []

    def spans_frames(self) -> bool:
        return True

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (Signal.ATTENTION_RECEIVED, Signal.PREVIOUS_HIDDEN)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        self.seen.append(tokens)
        frames = tokens.grid[0]
        count, remove = tokens.count // frames, budget.remove // frames
        numbers = torch.arange(tokens.count)
        source = numbers[numbers % count >= count - remove]
        target = ((source // count + 1).clamp(max=frames - 1)) * count
        batch = (tokens.hidden.shape[0], -1)
        merged = Reduction.merge(source.expand(batch), target.expand(batch), tokens.size)
        return replace(merged, riders={"t-number": numbers.expand(batch)})


class Lopsided(PruningStrategy[StrategyParams]):
    """Keep the first tokens of the video, so that the first frames stay whole."""

    name = "t-lopsided"
    stages = (Encoder(schedule=None),)

    def spans_frames(self) -> bool:
        return True

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        first = torch.arange(budget.keep).expand(tokens.hidden.shape[0], -1)
        return Reduction.keep(first, tokens.count)


VIDEO_PLUGIN = registering(Across, Lopsided)
