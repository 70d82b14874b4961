"""PyramidDrop: drop visual tokens in several steps, the deeper in the LLM the more."""

from __future__ import annotations

from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder, Step
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import ScoreStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens


class PyramidDropParams(StrategyParams):
    """`pyramiddrop` has no parameters: layers and budgets stand in the plan."""


def quarters(layers: int) -> tuple[Step, ...]:
    """Half of what arrives, at a quarter, a half and three quarters of the depth.

    The paper's layers 8, 16 and 24 of 32; the same shares of other depths are ours. LLMs of less
    than four layers have fewer steps.
    """
    places = sorted({layers // 4, layers // 2, layers * 3 // 4})
    return tuple(Step(layer, 0.5) for layer in places)


class PyramidDrop(ScoreStrategy[PyramidDropParams]):
    """Inside the LLM, in three steps: keep what the last prompt token looks at in the layer ahead.

    Source: PyramidDrop (arXiv 2410.17247, section 3), and notes on its code.
    """

    name = "pyramiddrop"
    Params = PyramidDropParams
    stages = (Decoder(steps=quarters),)
    about = About(
        summary="Halves the visual tokens three times in the LLM by the last token's attention.",
        paper="PyramidDrop, arXiv 2410.17247",
        licence="Written from method notes; the reference code is under the MIT licence, none was "
        "copied.",
        ours={},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The last prompt token's attention row of the layer in front of which it stands."""
        return (Signal.AHEAD_ATTENTION,)

    def score(self, tokens: Tokens) -> Tensor:
        """The row itself, `[B, N]`."""
        return tokens.signal(Signal.AHEAD_ATTENTION)
