"""MMTok: the visual tokens that cover the question's words and the image best."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import coverage_select
from tokenprune_strategies.shared.cosine import cosines


class MMTokParams(StrategyParams):
    """Parameters of `mmtok`."""

    alpha: float = Field(
        default=0.5, ge=0, description="Weight of covering the image, beside the words."
    )
    tau_text: float = Field(
        default=0.02, gt=0, description="Temperature of the softmax from words to visual tokens."
    )
    tau_visual: float = Field(
        default=0.2, gt=0, description="Temperature of the softmax among visual tokens."
    )
    text: Literal["behind", "all"] = Field(
        default="behind",
        description="Which of the prompt's words count: those behind the image, or all; where none "
        "is behind it, all.",
    )


class MMTok(PruningStrategy[MMTokParams]):
    """In front of the LLM's first layer: greedy coverage of words and visual tokens.

    Source: MMTok (arXiv 2508.18264, section 3), and notes on its code; the greedy pick is
    `ops.coverage_select`.
    """

    name = "mmtok"
    Params = MMTokParams
    stages = (Decoder(layer=0),)
    about = About(
        summary="Keeps tokens that cover the question's words and the image, one after another.",
        paper="MMTok, arXiv 2508.18264",
        licence="Written from method notes; the reference code is under Apache-2.0, none was "
        "copied.",
        ours={
            "text": "the code takes content words by a list of its own, which needs the words "
            "themselves; here all tokens behind the image count",
        },
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The prompt's text, which at layer 0 are its embeddings."""
        return (Signal.TEXT_STATES, Signal.TEXT_PLACE)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep exactly `budget.keep` tokens, in raster order."""
        place = tokens.signal(Signal.TEXT_PLACE)
        asked = place >= 0
        if self.params.text == "behind":
            behind = place == 1
            asked = torch.where(behind.any(dim=1, keepdim=True), behind, asked)
        words = shares(tokens.signal(Signal.TEXT_STATES), tokens.hidden, self.params.tau_text)
        words = words * (asked / asked.sum(dim=1, keepdim=True).clamp(min=1))[..., None]
        image = (cosines(tokens.hidden) / self.params.tau_visual).softmax(dim=-1) / tokens.count
        picks = coverage_select(torch.cat((words, self.params.alpha * image), dim=1), budget.keep)
        return Reduction.keep(picks.sort(dim=1).values, tokens.count, score=words.sum(dim=1))


def shares(text: Tensor, visual: Tensor, temperature: float) -> Tensor:
    """Softmax over visual tokens `[B, N, D]` by cosine, of words `[B, S, D]`: `[B, S, N]`."""
    alike = normalize(text.float(), dim=-1) @ normalize(visual.float(), dim=-1).transpose(1, 2)
    return (alike / temperature).softmax(dim=-1)
