"""The strategy `dart`."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune_strategies.dart.least_alike import least_alike, pivots

_OF_KEYS = (Signal.KEY_LENGTH, Signal.OUTPUT_STATES)
_OF_KEYS_TEXT = (Signal.TEXT_KEY_LENGTH, Signal.TEXT_OUTPUT_STATES)


class DARTParams(StrategyParams):
    """Parameters of `dart`."""

    measure: Literal["keys", "states"] = Field(
        default="keys",
        description="What pivots are chosen by, and what is compared: the L1 norm of the keys of "
        "the layer before, and states through the LLM's final norm; or both by the states "
        "themselves, which at layer 0 are the input embeddings.",
    )
    pivots: int = Field(default=4, ge=1, description="Visual pivots; they are kept.")
    text_pivots: int = Field(
        default=4, ge=0, description="Pivots among the text behind the image; they only guide."
    )


class DART(PruningStrategy[DARTParams]):
    """Inside the LLM: a few pivots, and the tokens that duplicate them least.

    Source: DART (arXiv 2502.11494, section 4), and notes on its code; `measure: states` at layer 0
    is the form that TensorRT-Edge-LLM documents.
    """

    name = "dart"
    Params = DARTParams
    stages = (Decoder(layer=2),)
    about = About(
        summary="Keeps a few pivots and the tokens least like them.",
        paper="Stop Looking for Important Tokens: Duplication Matters More (DART), "
        "arXiv 2502.11494",
        licence="Written from method notes; the reference code is under Apache-2.0, none was "
        "copied.",
        ours={},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """Lengths and states of visual and text tokens, and which text stands behind the image."""
        if self.params.measure == "states":
            return (Signal.TEXT_STATES, Signal.TEXT_PLACE)
        return (*_OF_KEYS, *_OF_KEYS_TEXT, Signal.TEXT_PLACE)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep exactly `budget.keep` tokens, in raster order."""
        length, states = self._measured(tokens, tokens.hidden, _OF_KEYS)
        everyone = torch.ones_like(length, dtype=torch.bool)
        visual = pivots(length, states, min(self.params.pivots, budget.keep), everyone)
        words = tokens.signal(Signal.TEXT_STATES) if self.params.measure == "states" else None
        behind = tokens.signal(Signal.TEXT_PLACE) == 1
        text = pivots(
            *self._measured(tokens, words, _OF_KEYS_TEXT), self.params.text_pivots, behind
        )
        return Reduction.keep(least_alike(states, visual, text, budget.keep), tokens.count)

    def _measured(
        self, tokens: Tokens, states: Tensor | None, asked: tuple[Signal, Signal]
    ) -> tuple[Tensor, Tensor]:
        """Length `[B, n]` and states `[B, n, D]` of visual or text tokens."""
        if self.params.measure == "states":
            assert states is not None
            return states.float().abs().sum(dim=-1), states
        length, normed = asked
        return tokens.signal(length), tokens.signal(normed)
