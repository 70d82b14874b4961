"""The strategy `sparsevlm2`: version 2.0 of SparseVLM's code."""

from __future__ import annotations

from pydantic import Field

from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder, Step
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import topk_indices
from tokenprune_strategies.sparsevlm.heads import seen_by_best_heads, without_position
from tokenprune_strategies.sparsevlm.places import steps_of
from tokenprune_strategies.sparsevlm.raters import noted, require_layer, with_note


class SparseVLM2Params(StrategyParams):
    """Parameters of `sparsevlm2`."""

    heads: float = Field(
        default=0.4375,
        gt=0,
        le=1,
        description="Share of the attention heads that are read, rounded down, at least one; the "
        "code reads 14 of 32.",
    )


def steps(layers: int) -> tuple[Step, ...]:
    """Raters in front of layer 0; cuts behind the layers 2, 6 and 15 of 32.

    Shares are those of the code's budget of 192.
    """
    return steps_of(layers, (300 / 576, 200 / 300, 118 / 200))


class SparseVLM2(PruningStrategy[SparseVLM2Params]):
    """Inside the LLM, in three steps: what the question's visual words look at, position left out.

    Source: SparseVLM (arXiv 2410.04417), and notes on its code of version 2.0 (SparseVLM+).
    """

    name = "sparsevlm2"
    Params = SparseVLM2Params
    stages = (Decoder(steps=steps),)
    about = About(
        summary="As sparsevlm, by the heads that see the image most; nothing is recycled.",
        paper="SparseVLM, arXiv 2410.04417",
        licence="Written from method notes; the reference code is under Apache-2.0, none was "
        "copied.",
        ours={},
        borrowed={"heads": "the code's"},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The prompt's text and, behind a layer, what its tokens look at there, head by head."""
        rows = (Signal.TEXT_ATTENTION_BY_HEAD, Signal.TEXT_ROTATION) if site.layer else ()
        return (Signal.TEXT_STATES, Signal.TEXT_PLACE, *rows)

    def check(self, site: Site, budget: Budget, grid: Grid) -> None:
        """Refuse to drop in front of layer 0.

        Raises:
            LayerError: no layer has looked yet.
        """
        require_layer(self.name, site, budget)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep exactly `budget.keep` tokens, in raster order."""
        chosen = noted(tokens)
        if not budget.remove:
            return with_note(Reduction.none(), tokens, chosen)
        weights = tokens.signal(Signal.TEXT_ATTENTION_BY_HEAD)
        weights = without_position(weights, tokens.signal(Signal.TEXT_ROTATION))
        heads = max(1, int(weights.shape[2] * self.params.heads + 1e-9))
        score = seen_by_best_heads(weights, chosen, heads)
        answer = Reduction.keep(topk_indices(score, budget.keep), tokens.count, score=score)
        return with_note(answer, tokens, chosen)
