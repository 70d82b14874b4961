"""FEATHER: attention without positions, beside an even grid, in two steps."""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder, Step
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens

SECOND = "feather.second"
"""Rider `[B, N]` that the first step leaves, so that the next one knows that it isn't first."""


class FeatherParams(StrategyParams):
    """Parameters of `feather`."""

    ratio: float = Field(
        default=0.3,
        gt=0,
        le=1,
        description="Share of the tokens that the first step keeps by attention; the second one "
        "keeps its square of what arrives.",
    )
    stride: int = Field(
        default=3, ge=0, description="Distance of the grid that the first step keeps; 0: no grid."
    )


def steps(layers: int) -> tuple[Step, ...]:
    """The paper's layers 8 and 16 of 32; the same shares of other depths are ours.

    Shares are for plans that give a budget: those of 576 tokens, about 0.37 and 0.09.
    """
    early, late = max(1, layers // 4), max(1, layers // 2)
    return (Step(late, 0.03),) if early == late else (Step(early, 0.37), Step(late, 0.09))


class Feather(PruningStrategy[FeatherParams]):
    """Inside the LLM: attention without rotary embeddings and a grid, then attention alone.

    Source: FEATHER (arXiv 2412.13180, section 5), and notes on its code.
    """

    name = "feather"
    Params = FeatherParams
    stages = (Decoder(steps=steps, maps=True),)
    length = "own"
    about = About(
        summary="Keeps what is attended to regardless of position, and an even grid; prunes twice.",
        paper="Feather the Throttle (FEATHER), arXiv 2412.13180",
        licence="Written from method notes; the reference code is under the MIT licence, none was "
        "copied.",
        ours={},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The last token's row without positions, over visual tokens alone."""
        return (Signal.LAST_QUERY_ATTENTION_AMONG_VISUAL,)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """A mask; under a budget, the best `budget.keep` tokens of it at most."""
        score = tokens.signal(Signal.LAST_QUERY_ATTENTION_AMONG_VISUAL)
        first = SECOND not in tokens.riders
        share = self.params.ratio if first else self.params.ratio**2
        place = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        kept = place < max(1, int(tokens.count * share + 1e-9))
        if first and self.params.stride:
            kept = kept | on_grid(tokens, self.params.stride)
        if budget.given:
            ranked = torch.where(kept, place, place + tokens.count)
            kept = kept & (ranked.argsort(dim=1).argsort(dim=1) < budget.keep)
        answer = Reduction.keep_mask(kept, score=score)
        return replace(answer, riders={SECOND: torch.ones_like(tokens.index)})


def on_grid(tokens: Tokens, stride: int) -> Tensor:
    """Tokens whose row and column are multiples of the stride, `[B, N]` bool."""
    position = tokens.position
    on: Tensor = (position[..., 1] % stride == 0) & (position[..., 2] % stride == 0)
    return on
