"""FastV: drop the visual tokens that the prompt's last token attends to least."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import ScoreStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens

_ROWS = {"last": Signal.LAST_QUERY_ATTENTION, "all": Signal.PROMPT_ATTENTION_MEAN}


class FastVParams(StrategyParams):
    """Parameters of `fastv`; layer K and the kept share stand in the plan."""

    query: Literal["last", "all"] = Field(
        default="last",
        description="Whose attention ranks a token: the last prompt token's, as in the code, "
        "or the mean over all tokens of the prompt, as the paper's text says.",
    )


class FastV(ScoreStrategy[FastVParams]):
    """Inside the LLM, before layer K: keep what is looked at most in layer K - 1.

    Layers below K keep all keys and values, the others hold the survivors only. Source: Chen et
    al., "An Image is Worth 1/2 Tokens After Layer 2" (arXiv 2403.06764); K = 2 is the paper's.
    Text tokens, if the plan says `keep_text`, are scored by the same row (ours).
    """

    name = "fastv"
    Params = FastVParams
    stages = (Decoder(layer=2, text=True),)
    about = About(
        summary="Drops visual tokens in the LLM by the last prompt token's attention.",
        paper="An Image is Worth 1/2 Tokens After Layer 2 (FastV), arXiv 2403.06764",
        licence="Written from notes on the paper; the reference code carries no licence and was "
        "not used.",
        ours={},
        borrowed={"query": "the code's"},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The last prompt token's attention row, or the mean of all rows."""
        return (_ROWS[self.params.query],)

    def score(self, tokens: Tokens) -> Tensor:
        """The row itself, `[B, N]`."""
        return tokens.signal(_ROWS[self.params.query])
