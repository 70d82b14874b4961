"""A stage that only looks: with it the engine follows tokens for the probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenprune.engine.stages import ResolvedStage
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.plan import Plan, StagePlan

#: Name of the rider by which what was seen is found again, behind all stages.
NUMBER = "probe_number"


@dataclass(frozen=True)
class Seen:
    """The tokens of one picture behind the encoder.

    Attributes:
        index: `[K]` units whose places they hold.
        signals: `[K, ...]` by name.
    """

    index: Tensor
    signals: dict[str, Tensor]


class Look(PruningStrategy[StrategyParams]):
    """Keeps every token.

    Args:
        wanted: signals that are noted; with some, every token carries its picture's number.

    Attributes:
        seen: pictures by that number.
    """

    name = "look"
    stages = (PreLlm(),)

    def __init__(self, wanted: Sequence[Signal] = ()) -> None:
        super().__init__(StrategyParams())
        self._wanted = tuple(wanted)
        self.seen: list[Seen] = []

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """What is noted."""
        return self._wanted

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Leave everything as it is."""
        if not self._wanted:
            return Reduction.none()
        batch, count = tokens.index.shape
        first = len(self.seen)
        for row in range(batch):
            signals = {one.name: tokens.signal(one)[row] for one in self._wanted}
            self.seen.append(Seen(tokens.index[row], signals))
        number = torch.arange(first, first + batch, device=tokens.index.device)
        return Reduction(riders={NUMBER: number[:, None].expand(-1, count)})


def with_look(
    plan: Plan, stages: Sequence[ResolvedStage], look: Look
) -> tuple[Plan, list[ResolvedStage]]:
    """A plan and its stages with one that looks, first behind the encoder."""
    at = sum(stage.plan.at == "encoder" for stage in stages)
    told = StagePlan(at="pre_llm", strategy=Look.name, keep=1.0)
    added = [*stages[:at], ResolvedStage(at, told, look), *stages[at:]]
    numbered = [replace(stage, number=number) for number, stage in enumerate(added)]
    return plan.model_copy(update={"stages": tuple(one.plan for one in numbered)}), numbered
