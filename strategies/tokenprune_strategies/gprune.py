"""G-Prune: visual tokens as a graph, through which information spreads."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.strategy import ScoreStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune_strategies.shared.cosine import cosines

_NOTHING = -5000.0
"""Stands for no edge in the softmax, the code's."""


class GPruneParams(StrategyParams):
    """Parameters of `gprune`."""

    threshold: float = Field(
        default=0.5, ge=-1, lt=1, description="Cosine from which on two tokens are joined."
    )
    temperature: float = Field(default=0.03, gt=0, description="Of the softmax over neighbours.")
    rounds: int = Field(default=5, ge=1, description="How often information is passed on.")


class GPrune(ScoreStrategy[GPruneParams]):
    """Before the LLM, on projected tokens: keep where spreading information gathers.

    Source: "What Kind of Visual Tokens Do We Need?" (arXiv 2501.02268), and notes on its code.
    """

    name = "gprune"
    Params = GPruneParams
    stages = (PreLlm(projected=True),)
    about = About(
        summary="Keeps tokens where information gathers that spreads over a graph of likeness.",
        paper="What Kind of Visual Tokens Do We Need? (G-Prune), arXiv 2501.02268",
        licence="Written from method notes; the reference code carries no licence and was not "
        "used.",
        ours={},
        borrowed={"threshold": "the code's", "temperature": "the code's"},
    )

    def score(self, tokens: Tokens) -> Tensor:
        """What has gathered at a token, divided by the number of its neighbours, `[B, N]`."""
        alike = cosines(tokens.hidden)
        joined = (alike >= self.params.threshold) & (alike != 0)
        logits = torch.where(joined, alike / self.params.temperature, _NOTHING)
        passing = logits.softmax(dim=-1)
        spread: Tensor = tokens.hidden.float().norm(dim=-1)[:, None]
        # Rounds of vector times matrix: the code's power of the matrix, without computing it.
        for _ in range(self.params.rounds):
            spread = spread @ passing
        return spread[:, 0] / joined.sum(dim=-1).clamp(min=1)
