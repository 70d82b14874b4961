"""OTPrune: the tokens whose distribution is closest to that of all, by a determinant."""

from __future__ import annotations

import torch
from pydantic import Field
from torch.nn.functional import normalize

from tokenprune.interface.about import About
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import dpp_select


class OTPruneParams(StrategyParams):
    """Parameters of `otprune`."""

    weight: float = Field(
        default=0.01, gt=0, description="Of the products of tokens beside the identity."
    )


class OTPrune(PruningStrategy[OTPruneParams]):
    """Before the LLM, on projected tokens: greedy maximum of a log determinant.

    Source: OTPrune (arXiv 2602.20205), and notes on its code.
    """

    name = "otprune"
    Params = OTPruneParams
    stages = (PreLlm(projected=True),)
    about = About(
        summary="Keeps tokens distributed as all are, by a log determinant.",
        paper="OTPrune, arXiv 2602.20205",
        licence="Written from method notes; the reference code is under Apache-2.0, none was "
        "copied.",
        ours={},
    )

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep exactly `budget.keep` tokens, in raster order."""
        # Channels, not tokens, are brought to length one, as in the code.
        states = normalize(tokens.hidden.float(), dim=1)
        products = states @ states.transpose(1, 2)
        one = torch.eye(tokens.count, device=products.device)
        kernel = one + self.params.weight * products @ products.transpose(1, 2)
        picks = dpp_select(kernel, budget.keep)
        return Reduction.keep(picks.sort(dim=1).values, tokens.count)
