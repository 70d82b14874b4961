"""Scores of patches by the vision encoder's own attention, with a class token or without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from tokenprune.interface.signals import Signal
from tokenprune.interface.strategy import StrategyParams

Attention = Literal["cls", "received"]

SALIENCY: Mapping[Attention, Signal] = {
    "cls": Signal.CLS_ATTENTION,
    "received": Signal.ATTENTION_RECEIVED,
}
"""What a parameter `score` reads."""


class SaliencyParams(StrategyParams):
    """The parameter of methods that rank patches by the class token's attention."""

    score: Attention = Field(
        default="cls",
        description="What a token is ranked by: the class token's attention, or the attention it "
        "receives from all patches (encoders without class token).",
    )

    @property
    def saliency(self) -> Signal:
        """The signal of `score`."""
        return SALIENCY[self.score]
