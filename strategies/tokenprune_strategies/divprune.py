"""DivPrune: the most diverse set of visual tokens."""

from __future__ import annotations

from tokenprune.interface.about import About
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import max_min_select
from tokenprune_strategies.shared.cosine import cosines


class DivPruneParams(StrategyParams):
    """`divprune` has no parameters: the budget stands in the plan."""


class DivPrune(PruningStrategy[DivPruneParams]):
    """Before the LLM, on projected tokens: keep those that are farthest from each other.

    Source: DivPrune (arXiv 2503.02175, section 3), and notes on its code. The distance is
    1 - cosine; the greedy answer to the max-min diversity problem is `ops.max_min_select`.
    """

    name = "divprune"
    Params = DivPruneParams
    stages = (PreLlm(projected=True),)
    about = About(
        summary="Keeps the tokens farthest from each other, one after another.",
        paper="DivPrune, arXiv 2503.02175",
        licence="Written from method notes; the reference code is under CC BY-NC and was not used.",
        ours={},
    )

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep exactly `budget.keep` tokens, in raster order."""
        picks = max_min_select(1 - cosines(tokens.hidden), budget.keep)
        return Reduction.keep(picks.sort(dim=1).values, tokens.count)
