"""VTW: from one layer of the LLM on, no visual tokens."""

from __future__ import annotations

import torch

from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens


class VTWParams(StrategyParams):
    """`vtw` has no parameters: the layer stands in the plan."""


class VTW(PruningStrategy[VTWParams]):
    """Inside the LLM: all visual tokens leave in front of one layer.

    Source: Visual Tokens Withdrawal (arXiv 2405.05803), and notes on its code.
    """

    name = "vtw"
    Params = VTWParams
    # the paper's 15 of 32
    stages = (Decoder(layer=lambda layers: max(1, layers * 15 // 32)),)
    length = "own"
    about = About(
        summary="Drops all visual tokens in the middle of the LLM.",
        paper="Boosting Multimodal LLMs with Visual Tokens Withdrawal (VTW), arXiv 2405.05803",
        licence="Written from method notes; the reference code carries no licence and was not "
        "used.",
        ours={},
    )

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep none."""
        return Reduction.keep_mask(torch.zeros_like(tokens.index, dtype=torch.bool))
