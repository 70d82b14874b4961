"""The strategy `visionzip`."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
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
        extra = (Signal.PREFIX_STATES,) if self.params.class_token else ()
        return (self.params.saliency, Signal.KEYS, *extra)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Leave exactly `budget.keep` tokens, dominant and contextual ones."""
        if not budget.remove:
            return Reduction.none()
        score = tokens.signal(self.params.saliency)
        first = int(self.params.class_token)
        made = min(int(budget.keep * self.params.contextual + 1e-9), budget.keep - first)
        dominant = topk_indices(score, budget.keep - made - first)
        rest = complement(dominant, tokens.count)
        found = contexts(tokens.signal(Signal.KEYS), rest, made)
        if self.params.order == "raster":
            return _at_their_places(tokens, dominant, found, score)
        ahead = tokens.signal(Signal.PREFIX_STATES)[:, :1] if first else tokens.hidden[:, :0]
        return _on_the_first_places(tokens, ahead, dominant, found, score)


def _at_their_places(tokens: Tokens, dominant: Tensor, found: Contexts, score: Tensor) -> Reduction:
    hidden = tokens.hidden
    states = torch.cat((take(hidden.float(), dominant), contextual(hidden, found)), dim=1)
    place, order = torch.cat((dominant, found.target), dim=1).sort(dim=1)
    number = torch.arange(place.shape[1], device=place.device).expand_as(place)
    created = take(states, order).to(hidden.dtype)
    slot = _slots(place, number, found, tokens.count)
    return Reduction(anchor=place, slot=slot, created=created, score=score)


def _on_the_first_places(
    tokens: Tokens, ahead: Tensor, dominant: Tensor, found: Contexts, score: Tensor
) -> Reduction:
    """Tokens `ahead` `[B, 0 or 1, D]` that no patch is part of, dominant, then contextual ones."""
    hidden = tokens.hidden
    parts = ahead.float(), take(hidden.float(), dominant), contextual(hidden, found)
    created = torch.cat(parts, dim=1).to(hidden.dtype)
    place = torch.cat((dominant, found.target), dim=1)
    order = torch.arange(created.shape[1], device=place.device).expand(place.shape[0], -1)
    slot = _slots(place, order[:, ahead.shape[1] :], found, tokens.count)
    return Reduction(anchor=order, slot=slot, created=created, score=score)


def _slots(place: Tensor, number: Tensor, found: Contexts, count: int) -> Tensor:
    """Slots `[B, N]`: `number` for the tokens at `place`, those of their targets for members."""
    slot = place.new_full((place.shape[0], count), -1).scatter(1, place, number)
    return slot.scatter(1, found.member, slot.gather(1, found.target).gather(1, found.joins))
