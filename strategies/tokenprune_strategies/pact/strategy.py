"""The strategy `pact`."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune_strategies.pact.clustering import centres, nearest
from tokenprune_strategies.pact.measuring import AGREEMENT, AHEAD_KEYS


class PACTParams(StrategyParams):
    """Parameters of `pact`."""

    important: float = Field(
        default=0.55, gt=0, le=1, description="Share of the tokens among which centres are sought."
    )
    cutoff: float = Field(
        default=0.21, ge=0, le=2, description="Farthest that a token may be from its centre."
    )
    recovery: float = Field(
        default=1.5,
        ge=1,
        description="Unimportant tokens join a centre that is nearer than so many cutoffs.",
    )


class PACT(PruningStrategy[PACTParams]):
    """Inside an early layer of the LLM: drops what is unimportant, clusters what is alike.

    Source: PACT (arXiv 2504.08966), and notes on its code. Its proportional attention is left out:
    inside the LLM, layers run by their own attention.
    """

    name = "pact"
    Params = PACTParams
    # the code's 4; shallower LLMs have their last layer (ours)
    stages = (Decoder(layer=lambda layers: min(4, layers - 1)),)
    length = "own"
    about = About(
        summary="Drops unimportant tokens without attention maps, merges clusters of the others.",
        paper="PACT: Pruning and Clustering-Based Token Reduction, arXiv 2504.08966",
        licence="Written from method notes; the reference code is under the MIT licence, none was "
        "copied.",
        ours={},
        borrowed={"important": "the code's", "cutoff": "the code's", "recovery": "the code's"},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """Of the layer ahead: agreement with the mean query, and keys."""
        return (AGREEMENT, AHEAD_KEYS)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Sample by sample; `budget.keep` tokens at most if the plan gives a budget."""
        if budget.given and not budget.remove:
            return Reduction.none()
        score = tokens.signal(AGREEMENT).float() * tokens.hidden.float().norm(dim=-1)
        keys = tokens.signal(AHEAD_KEYS).float()
        pairs = zip(score, keys, strict=True)
        return Reduction.ragged([self._one(*pair, budget.keep) for pair in pairs])

    def _one(self, score: Tensor, keys: Tensor, most: int) -> Reduction:
        """The answer for one sample, from its scores `[N]` and keys `[N, C]`."""
        params, count = self.params, len(score)
        good = max(1, int(count * params.important + 1e-9))
        kept = score.argsort(descending=True, stable=True)[:good].sort().values
        centre = kept[centres(keys[kept], params.cutoff)]
        reach = params.recovery * params.cutoff
        slot = nearest(keys, centre, reach)
        if len(centre) > most:
            size = torch.bincount(slot[slot >= 0], minlength=len(centre))
            largest = size.argsort(descending=True, stable=True)[:most].sort().values
            centre = centre[largest]
            slot = nearest(keys, centre, reach)
        ones = torch.ones_like(score)[None]
        return Reduction(anchor=centre[None], slot=slot[None], weight=ones, score=score[None])
