"""The strategy `sparsevlm`."""

from __future__ import annotations

from pydantic import Field

from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder, Step
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune_strategies.shared.assembly import Order, assembled
from tokenprune_strategies.sparsevlm.places import steps_of
from tokenprune_strategies.sparsevlm.raters import noted, rated, require_layer, with_note
from tokenprune_strategies.sparsevlm.recycling import kept_of, recycle


class SparseVLMParams(StrategyParams):
    """Parameters of `sparsevlm`."""

    recycle: bool = Field(
        default=True, description="Leave means of clusters of dropped tokens; they count as kept."
    )
    order: Order = Field(
        default="raster",
        description="Order of the tokens in the prompt: each at its own place, a cluster at its "
        "centre's; or kept ones first, then clusters, on the first places.",
    )


def steps(layers: int) -> tuple[Step, ...]:
    """Raters in front of layer 0; cuts behind the paper's layers 2, 6 and 15 of 32.

    Shares are those of its budget of 192.
    """
    return steps_of(layers, (309 / 576, 204 / 309, 113 / 204))


class SparseVLM(PruningStrategy[SparseVLMParams]):
    """Inside the LLM, in three steps: keep what the question's visual words look at.

    Source: SparseVLM (arXiv 2410.04417, section 3), and notes on its code of version 1.0.
    """

    name = "sparsevlm"
    Params = SparseVLMParams
    stages = (Decoder(steps=steps),)
    about = About(
        summary="Text tokens that fit the image rate visual tokens; dropped ones are recycled.",
        paper="SparseVLM, arXiv 2410.04417",
        licence="Written from method notes; the reference code is under Apache-2.0, none was "
        "copied.",
        ours={"order": "tokens stay at their places, so that position ids and pictures are true"},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The prompt's text and, behind a layer, what its tokens look at there."""
        rows = (Signal.TEXT_ATTENTION,) if site.layer else ()
        return (Signal.TEXT_STATES, Signal.TEXT_PLACE, *rows)

    def check(self, site: Site, budget: Budget, grid: Grid) -> None:
        """Refuse to drop in front of layer 0, and less than what is recycled.

        Raises:
            LayerError: no layer has looked yet.
            BudgetError: clusters alone are more; carries the least number.
        """
        require_layer(self.name, site, budget)
        if budget.remove and self.params.recycle:
            kept_of(budget.count, budget.keep, str(site))

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Leave exactly `budget.keep` tokens, kept and recycled ones."""
        chosen = noted(tokens)
        if not budget.remove:
            return with_note(Reduction.none(), tokens, chosen)
        score = rated(tokens.signal(Signal.TEXT_ATTENTION), chosen)
        order = score.argsort(dim=1, descending=True, stable=True)
        kept = budget.keep
        if self.params.recycle:
            kept = kept_of(tokens.count, budget.keep, str(tokens.site))
        first = order[:, :kept].sort(dim=1).values
        if not self.params.recycle:
            answer = Reduction.keep(first, tokens.count, score=score)
        else:
            made = recycle(tokens.hidden, order[:, kept:])
            answer = assembled(tokens, first, made, self.params.order, score=score)
        return with_note(answer, tokens, chosen)
