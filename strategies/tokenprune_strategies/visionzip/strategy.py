"""The strategy `visionzip`."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from tokenprune.errors import BudgetError
from tokenprune.interface.about import About
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.strategy import Budget, PruningStrategy
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import topk_indices
from tokenprune_strategies.shared.assembly import Order, assembled
from tokenprune_strategies.shared.indexing import complement
from tokenprune_strategies.shared.saliency import SaliencyParams
from tokenprune_strategies.visionzip.contextual import contextual


class VisionZipParams(SaliencyParams):
    """Parameters of `visionzip`."""

    contextual: float = Field(
        default=0.15625,
        ge=0,
        le=1,
        description="Share of the budget for contextual tokens, rounded down.",
    )
    order: Order = Field(
        default="raster",
        description="Order of the tokens in the prompt: each at its own place, a contextual one at "
        "its target's; or dominant ones first, then contextual ones, on the first places.",
    )
    class_token: bool = Field(
        default=False,
        description="Hand the class token on as the first of the dominant ones, which count it; "
        "only in the paper's order.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.class_token and self.order != "paper":
            raise ValueError("'class_token' has no place of its own: it needs order: paper")
        return self


class VisionZip(PruningStrategy[VisionZipParams]):
    """Before the LLM: dominant tokens by attention; all others go into a few contextual ones.

    Source: VisionZip (arXiv 2412.04467, section 3), and notes on its code.
    """

    name = "visionzip"
    Params = VisionZipParams
    stages = (PreLlm(),)
    about = About(
        summary="Keeps the tokens the class token attends to, merges the others into a few.",
        paper="VisionZip, arXiv 2412.04467",
        licence="Written from method notes; the reference code is under Apache-2.0, none was "
        "copied.",
        ours={
            "order": "tokens stay at their places, so that position ids and pictures are true",
            "class_token": "follows from the order; the paper hands it on",
        },
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The class token's row, or the attention that a patch receives; the keys."""
        extra = (Signal.PREFIX_FEATURES,) if self.params.class_token else ()
        return (self.params.saliency, Signal.KEYS, *extra)

    def check(self, site: Site, budget: Budget, grid: Grid) -> None:
        """Refuse a budget that the class token fills alone.

        Raises:
            BudgetError: it carries the least number.
        """
        if self.params.class_token and budget.remove and budget.keep < 2:
            raise BudgetError(
                "the class token would be the only one left, and it stands for no patch.",
                where=str(site),
                remedy="Keep at least 2, or leave class_token out.",
                nearest=2,
            )

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Leave exactly `budget.keep` tokens, dominant and contextual ones."""
        if not budget.remove:
            return Reduction.none()
        score = tokens.signal(self.params.saliency)
        first = int(self.params.class_token)
        count = min(int(budget.keep * self.params.contextual + 1e-9), budget.keep - first)
        dominant = topk_indices(score, budget.keep - count - first)
        rest = complement(dominant, tokens.count)
        made = contextual(tokens.hidden, tokens.signal(Signal.KEYS), rest, count)
        ahead = tokens.signal(Signal.PREFIX_FEATURES)[:, :1] if first else None
        return assembled(tokens, dominant, made, self.params.order, score=score, ahead=ahead)
