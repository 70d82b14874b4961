"""SCOPE: the visual tokens that cover all others best, weighted by the encoder's attention."""

from __future__ import annotations

from pydantic import Field

from tokenprune.interface.about import About
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import coverage_select
from tokenprune_strategies.shared.cosine import cosines
from tokenprune_strategies.shared.saliency import SaliencyParams


class ScopeParams(SaliencyParams):
    """Parameters of `scope`."""

    alpha: float = Field(
        default=1.0,
        ge=0,
        description="Exponent of the attention that a token's gain is multiplied by; 0: coverage "
        "alone.",
    )


class Scope(PruningStrategy[ScopeParams]):
    """Before the LLM: greedy facility location on cosines, the gain times a token's attention.

    Source: SCOPE (arXiv 2510.24214, section 3), and notes on its code; the greedy pick is
    `ops.coverage_select`.
    """

    name = "scope"
    Params = ScopeParams
    stages = (PreLlm(),)
    about = About(
        summary="Keeps salient tokens that cover the others, one after another.",
        paper="SCOPE: Saliency-Coverage Oriented Token Pruning, arXiv 2510.24214",
        licence="Written from method notes; the reference code carries no licence and was not "
        "used.",
        ours={},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The class token's row, or the attention that a patch receives."""
        return (self.params.saliency,)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep exactly `budget.keep` tokens, in raster order."""
        score = tokens.signal(self.params.saliency).float()
        gain = score**self.params.alpha
        picks = coverage_select(cosines(tokens.hidden), budget.keep, gain=gain)
        return Reduction.keep(picks.sort(dim=1).values, tokens.count, score=score)
