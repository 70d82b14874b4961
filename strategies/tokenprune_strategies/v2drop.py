"""V2Drop: drop the visual tokens that a layer of the LLM changes least."""

from __future__ import annotations

from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder, Step
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import ScoreStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens

_LAST = 1e-9
"""Share of the last step: a single token stays, as in the code."""


class V2DropParams(StrategyParams):
    """`v2drop` has no parameters: layers and budgets stand in the plan."""


def steps(layers: int) -> tuple[Step, ...]:
    """Half of what arrives, twice, then all but one token.

    The paper's layers 3, 17 and 22 of 32; the same shares of other depths are ours. Where two fall
    together, the later one's share holds.
    """
    places = {max(1, layers * place // 32): share for place, share in ((3, 0.5), (17, 0.5))}
    places[max(1, layers * 22 // 32)] = _LAST
    return tuple(Step(layer, share) for layer, share in sorted(places.items()) if layer < layers)


class V2Drop(ScoreStrategy[V2DropParams]):
    """Inside the LLM, in three steps: keep the tokens that the layer before changed most.

    Source: V2Drop (arXiv 2509.01552, section 3), and notes on its code.
    """

    name = "v2drop"
    Params = V2DropParams
    stages = (Decoder(steps=steps),)
    about = About(
        summary="Drops what a layer of the LLM changes least, in three steps.",
        paper="Variation-aware Vision Token Dropping (V2Drop), arXiv 2509.01552",
        licence="Written from method notes; the reference code is under Apache-2.0, none was "
        "copied.",
        ours={},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The states in front of the layer before."""
        return (Signal.EARLIER_STATES,)

    def score(self, tokens: Tokens) -> Tensor:
        """Distance between the states in front of the layer before and behind it, `[B, N]`."""
        earlier = tokens.signal(Signal.EARLIER_STATES).float()
        moved: Tensor = (tokens.hidden.float() - earlier).norm(dim=-1)
        return moved
