"""The strategy `visionzip`."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.strategy import Budget, PruningStrategy
from tokenprune.interface.tokens import Site, Tokens
from tokenprune.ops import take, topk_indices
from tokenprune_strategies.shared.indexing import complement
from tokenprune_strategies.shared.saliency import SaliencyParams
from tokenprune_strategies.visionzip.contextual import Contexts, contexts, contextual


class VisionZipParams(SaliencyParams):
    """Parameters of `visionzip`."""

    contextual: float = Field(
        default=0.15625,
        ge=0,
        le=1,
        description="Share of the budget for contextual tokens, rounded down.",
    )
    order: Literal["raster", "paper"] = Field(
        default="raster",
        description="Order of the tokens in the prompt: each at its own place, a contextual one at "
        "its target's; or dominant ones first, then contextual ones, on the first places.",
    )


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
        ours={"order": "tokens stay at their places, so that position ids and pictures are true"},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The class token's row, or the attention that a patch receives; the keys."""
        return (self.params.saliency, Signal.KEYS)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Leave exactly `budget.keep` tokens, dominant and contextual ones."""
        if not budget.remove:
            return Reduction.none()
        score = tokens.signal(self.params.saliency)
        made = int(budget.keep * self.params.contextual + 1e-9)
        dominant = topk_indices(score, budget.keep - made)
        if not made:
            return Reduction.keep(dominant, tokens.count, score=score)
        found = contexts(tokens.signal(Signal.KEYS), complement(dominant, tokens.count), made)
        return self._answer(tokens, dominant, found, score)

    def _answer(
        self, tokens: Tokens, dominant: Tensor, found: Contexts, score: Tensor
    ) -> Reduction:
        hidden, place = tokens.hidden, torch.cat((dominant, found.target), dim=1)
        states = torch.cat((take(hidden.float(), dominant), contextual(hidden, found)), dim=1)
        order = torch.arange(place.shape[1], device=place.device).expand_as(place)
        if self.params.order == "raster":
            place, ranked = place.sort(dim=1)
            states, order = take(states, ranked), ranked.argsort(dim=1)
        slot = place.new_empty(score.shape)
        slot = slot.scatter(1, torch.cat((dominant, found.target), dim=1), order)
        slot = slot.scatter(1, found.member, slot.gather(1, found.target).gather(1, found.joins))
        anchor = place if self.params.order == "raster" else order.contiguous()
        return Reduction(anchor=anchor, slot=slot, created=states.to(hidden.dtype), score=score)
