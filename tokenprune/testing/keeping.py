"""Strategies whose choices are known beforehand, for checks of adapters."""

from __future__ import annotations

import torch

from tokenprune.engine.stages import ResolvedStage
from tokenprune.interface.placement import Decoder, Encoder, PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.sites import Stage
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.plan import Plan, StagePlan


class EveryOther(PruningStrategy[StrategyParams]):
    """Keeps as many tokens as the budget says, spread evenly; all of them if it says all."""

    name = "every-other"
    stages = (Encoder(), PreLlm(), Decoder())

    def __init__(self) -> None:
        super().__init__(StrategyParams())

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """The same places in every image."""
        if budget.keep == tokens.count:
            return Reduction.none()
        steps = torch.arange(budget.keep, device=tokens.hidden.device)
        chosen = steps * tokens.count // budget.keep
        return Reduction.keep(chosen.expand(tokens.hidden.shape[0], -1), tokens.count)


def kept_at(*places: tuple[Stage, int | None], keep: float) -> tuple[Plan, list[ResolvedStage]]:
    """A plan that keeps so much at each place, and its stages.

    Args:
        places: stage and layer; None for stages without one.
        keep: share of the tokens that arrive.
    """
    plans = [
        StagePlan(at=at, strategy=EveryOther.name, keep=keep, layer=layer) for at, layer in places
    ]
    stages = [ResolvedStage(number, plan, EveryOther()) for number, plan in enumerate(plans)]
    # positions are said here, since the strategy isn't installed and can't be asked
    return Plan(stages=tuple(plans), positions="original"), stages
