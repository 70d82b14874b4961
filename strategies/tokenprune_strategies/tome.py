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
from tokenprune.ops import match_pairs
from tokenprune_strategies.shared.bipartite import require_half


class ToMeParams(StrategyParams):
    """Parameters of `tome`."""

    metric: Literal["keys", "hidden"] = Field(
        default="keys",
        description="What similarity is measured on: attention keys averaged over heads, or the "
        "hidden states after attention.",
    )
    parity: Literal["patches", "paper"] = Field(
        default="patches",
        description="Which tokens propose: the even ones among the patches, or among all tokens, "
        "class and register tokens counted, so that with one of them the odd patches propose.",
    )
    proportional_attention: bool = Field(
        default=True,
        description="Add the logarithm of a token's size to its logits as a key in later blocks.",
    )


class ToMe(PruningStrategy[ToMeParams]):
    """Bipartite soft matching on attention keys, size-weighted means.

    Source: Bolya et al., "Token Merging: Your ViT But Faster" (arXiv 2210.09461, section 3).
    Ours: parity is counted over patch tokens only unless the plan says otherwise; the merged token
    takes its target's place in raster order.
    """

    name = "tome"
    Params = ToMeParams
    stages = (Encoder(schedule="mean", halves=True),)
    about = About(
        summary="Merges the most similar tokens, block after block (keys, bipartite).",
        paper="Token Merging: Your ViT But Faster, arXiv 2210.09461",
        licence="Written from notes on the paper; the reference code is NonCommercial and was not "
        "used.",
        ours={"parity": "class and register tokens stand outside of matching"},
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
        require_half(tokens.count, budget.remove, tokens.site)
        in_front = 0 if tokens.prefix is None else tokens.prefix.shape[1]
        first = in_front % 2 if self.params.parity == "paper" else 0
        source, target = match_pairs(self._metric(tokens), budget.remove, first=first)
        return Reduction.merge(source, target, tokens.size)

    def _metric(self, tokens: Tokens) -> Tensor:
        return tokens.signal(Signal.KEYS) if self.params.metric == "keys" else tokens.hidden
