"""ToMe: merge the most similar tokens, block after block."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import Encoder
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune_strategies.shared.bipartite import alternate, best_pairs, require_half
from tokenprune_strategies.shared.indexing import every


class ToMeParams(StrategyParams):
    """Parameters of `tome`."""

    metric: Literal["keys", "hidden"] = Field(
        default="keys",
        description="What similarity is measured on: attention keys averaged over heads, or the "
        "hidden states after attention.",
    )
    proportional_attention: bool = Field(
        default=True,
        description="Add the logarithm of a token's size to its logits as a key in later blocks.",
    )


class ToMe(PruningStrategy[ToMeParams]):
    """Bipartite soft matching on attention keys, size-weighted means.

    Source: Bolya et al., "Token Merging: Your ViT But Faster" (arXiv 2210.09461, section 3).
    Default that is ours: parity is counted over patch tokens only, class and register tokens stand
    outside; the merged token takes its target's place in raster order.
    """

    name = "tome"
    Params = ToMeParams
    stages = (Encoder(schedule="mean", halves=True),)
    about = About(
        summary="Merges the most similar tokens, block after block (keys, bipartite).",
        paper="Token Merging: Your ViT But Faster, arXiv 2210.09461",
        licence="Written from notes on the paper; the reference code is NonCommercial and was not "
        "used.",
        ours={},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The block's keys, if similarity is measured on them."""
        return (Signal.KEYS,) if self.params.metric == "keys" else ()

    def proportional(self) -> bool:
        """As the parameter says (eq. 1 of the paper)."""
        return self.params.proportional_attention

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Merge the `budget.remove` best pairs of even and odd tokens.

        Raises:
            BudgetError: more than half of the tokens are to go.
        """
        if budget.remove == 0:
            return Reduction.none()
        require_half(tokens.count, budget.remove, str(tokens.site))
        halves = alternate(every(tokens.hidden))
        pairs = best_pairs(self._metric(tokens), halves, budget.remove)
        return Reduction.merge(pairs.source, pairs.target, tokens.size)

    def _metric(self, tokens: Tokens) -> Tensor:
        return tokens.signal(Signal.KEYS) if self.params.metric == "keys" else tokens.hidden
