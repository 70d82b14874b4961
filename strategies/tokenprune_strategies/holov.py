"""HoloV: every part of an image gets tokens, by its attention and its variety."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import topk_indices
from tokenprune_strategies.shared.assembly import Order, listed
from tokenprune_strategies.shared.ranking import place_in_group
from tokenprune_strategies.shared.saliency import SaliencyParams

_EPSILON = 1e-6
_ATTENTION, _VARIETY = 1000.0, 0.09
"""Factors of attention and of the variance of cosines: the code's."""


class HoloVParams(SaliencyParams):
    """Parameters of `holov`."""

    chunks: int = Field(
        default=16, ge=1, description="Parts of the image, in raster order; the first are longer."
    )
    order: Order = Field(
        default="raster",
        description="Order of the tokens in the prompt: each at its own place; or part by part, in "
        "each by attention, on the first places.",
    )


class HoloV(PruningStrategy[HoloVParams]):
    """Before the LLM, on projected tokens: a budget for every chunk of the image, then its best.

    Source: HoloV (arXiv 2510.02912, section 4), and notes on its code.
    """

    name = "holov"
    Params = HoloVParams
    stages = (PreLlm(projected=True),)
    about = About(
        summary="Shares the budget among parts of the image, keeps the most attended of each.",
        paper="Don't Just Chase Highlighted Tokens in MLLMs (HoloV), arXiv 2510.02912",
        licence="Written from method notes; the reference code is under Apache-2.0, none was "
        "copied.",
        ours={"order": "tokens stay at their places, so that position ids and pictures are true"},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The class token's row, or the attention that a patch receives."""
        return (self.params.saliency,)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep exactly `budget.keep` tokens."""
        if not budget.remove:
            return Reduction.none()
        score = tokens.signal(self.params.saliency).float()
        states = torch.tensor_split(tokens.hidden.float(), self.params.chunks, dim=1)
        looks = torch.tensor_split(score, self.params.chunks, dim=1)
        parts = [part for part in zip(states, looks, strict=True) if part[1].shape[1]]
        weight = torch.stack([holistic(*part) for part in parts], dim=1)
        room = weight.new_tensor([part[1].shape[1] for part in parts]).expand_as(weight)
        quota = allotted(weight, room, budget.keep)
        number = torch.cat([torch.full_like(a, n).long() for n, (_, a) in enumerate(parts)], dim=1)
        own = quota.gather(1, number)
        place = place_in_group(score, number)
        if self.params.order == "raster":
            index = topk_indices((place < own).float(), budget.keep)
            return Reduction.keep(index, tokens.count, score=score)
        # A part that is kept whole stays as it is; the others stand by attention.
        raster = torch.arange(tokens.count, device=place.device).expand_as(place)
        whole = own == room.gather(1, number)
        inside = torch.where(whole, raster, place)
        key = torch.where(place < own, number, len(parts)) * tokens.count + inside
        return listed(tokens, key.argsort(dim=1, stable=True)[:, : budget.keep], score=score)


def holistic(states: Tensor, attention: Tensor) -> Tensor:
    """What a part counts for: mean over its tokens of attention and of the variance of cosines.

    Args:
        states: `[B, m, D]` of a part.
        attention: `[B, m]`.

    Returns:
        `[B]`. A part of one token counts for its attention without the factor (the code's).
    """
    others = attention.shape[1] - 1
    if not others:
        return attention.mean(dim=1)
    unit: Tensor = states / (states.norm(dim=-1, keepdim=True) + _EPSILON)
    alike = unit @ unit.transpose(1, 2)
    # The zero in a token's own place takes part in its variance, as in the code.
    alike = alike.masked_fill(torch.eye(others + 1, device=alike.device, dtype=torch.bool), 0)
    mean = alike.sum(dim=2, keepdim=True) / others
    variance = (alike - mean).square().sum(dim=2) / others
    look = _ATTENTION * attention
    level = look.mean(dim=1, keepdim=True) / (variance.mean(dim=1, keepdim=True) + _EPSILON)
    return (look + _VARIETY * variance * level).mean(dim=1)


def allotted(weight: Tensor, room: Tensor, keep: int) -> Tensor:
    """Tokens of every part, `[B, C]`, `keep` in all.

    In proportion to the weights, rounded down; what is left goes one each to the heaviest parts.
    What a part has no room for goes to the heaviest ones that have (ours; the code fills up with
    zeros). Ties go to the earlier part.

    Args:
        weight: `[B, C]`, not negative.
        room: `[B, C]` tokens that each has.
        keep: tokens in all.
    """
    share = (weight / (weight.sum(dim=1, keepdim=True) + _EPSILON) * keep).floor()
    order = weight.argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    share = share + (rank < keep - share.sum(dim=1, keepdim=True))
    quota = torch.minimum(share, room)
    free = (room - quota).gather(1, order)
    over = keep - quota.sum(dim=1, keepdim=True)
    more = torch.minimum((over - (free.cumsum(dim=1) - free)).clamp(min=0), free)
    return (quota + more.gather(1, rank)).long()
