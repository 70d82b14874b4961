"""FasterVLM: keep the tokens that the vision encoder's class token looks at."""

from __future__ import annotations

from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import ScoreStrategy
from tokenprune.interface.tokens import Tokens
from tokenprune_strategies.shared.saliency import SaliencyParams


class FasterVLMParams(SaliencyParams):
    """Parameters of `fastervlm`."""


class FasterVLM(ScoreStrategy[FasterVLMParams]):
    """Before the LLM: the patches with the most attention of the class token, in raster order.

    Source: "[CLS] Attention is All You Need for Training-Free Visual Token Pruning"
    (arXiv 2412.01818v1, section 3), and notes on its code. The row is that of the block whose
    output feeds the projector, averaged over heads.
    """

    name = "fastervlm"
    Params = FasterVLMParams
    stages = (PreLlm(),)
    about = About(
        summary="Keeps the tokens that the encoder's class token attends to most.",
        paper="[CLS] Attention is All You Need (FasterVLM), arXiv 2412.01818v1",
        licence="Written from method notes; the reference code is under Apache-2.0, none was "
        "copied.",
        ours={},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The class token's row, or the attention that a patch receives."""
        return (self.params.saliency,)

    def score(self, tokens: Tokens) -> Tensor:
        """The row itself, `[B, N]`."""
        return tokens.signal(self.params.saliency)
