"""FastV: drop the visual tokens that the prompt's last token attends to least."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from tokenprune.errors import LayerError
from tokenprune.interface.signals import Signal
from tokenprune.interface.strategy import Budget, ScoreStrategy, StrategyParams
from tokenprune.interface.tokens import Site, Stage, Tokens


class FastVParams(StrategyParams):
    """`fastv` has no parameters: layer K and the kept share stand in the plan."""


class FastV(ScoreStrategy[FastVParams]):
    """Inside the LLM, before layer K: keep what the last prompt token looks at in layer K - 1.

    Layers below K keep all keys and values, the others hold the survivors only. Source: Chen et
    al., "An Image is Worth 1/2 Tokens After Layer 2" (arXiv 2403.06764); K = 2 is the paper's.
    Text tokens, if the plan says `keep_text`, are scored by the same row (ours).
    """

    name: ClassVar[str] = "fastv"
    Params = FastVParams
    stages: ClassVar[tuple[Stage, ...]] = ("decoder",)
    summary: ClassVar[str] = "Drops visual tokens in the LLM by the last prompt token's attention."
    paper: ClassVar[str] = "An Image is Worth 1/2 Tokens After Layer 2 (FastV), arXiv 2403.06764"
    licence_note: ClassVar[str] = (
        "Written from notes on the paper; the reference code carries no licence and was not used."
    )
    default_layer: ClassVar[int | None] = 2
    spreads: ClassVar[bool] = False
    prunes_text: ClassVar[bool] = True

    def check(self, site: Site, budget: Budget, grid: tuple[int, int, int]) -> None:
        """Layer 0 has no layer before it whose attention could be read.

        Raises:
            LayerError: the layer is 0.
        """
        if site.layer < 1:
            raise LayerError(
                "fastv reads the attention of the layer before it, and layer 0 has none.",
                where=str(site),
                remedy="Use layer 1 or a later one; the nearest is 1, the paper's is 2.",
            )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The last prompt token's attention row."""
        return (Signal.LAST_QUERY_ATTENTION,)

    def score(self, tokens: Tokens) -> Tensor:
        """The row itself, `[B, N]`."""
        return tokens.signal(Signal.LAST_QUERY_ATTENTION)
