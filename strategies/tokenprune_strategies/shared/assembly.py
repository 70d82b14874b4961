"""Answers that keep some tokens as they are and make a few new ones of others."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tokenprune.interface.reduction import Reduction
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import take

Order = Literal["raster", "paper"]


class Made(NamedTuple):
    """New tokens.

    Attributes:
        states: `[B, M, D]`.
        place: `[B, M]` token whose place each takes.
        member: `[B, m]` tokens that are part of one.
        joins: `[B, m]` number of the new token that each is part of.
    """

    states: Tensor
    place: Tensor
    member: Tensor
    joins: Tensor


def assembled(
    tokens: Tokens,
    kept: Tensor,
    made: Made,
    order: Order,
    *,
    score: Tensor | None = None,
    ahead: Tensor | None = None,
) -> Reduction:
    """Kept tokens and new ones; tokens that are neither kept nor part of a new one are dropped.

    Args:
        tokens: what arrived.
        kept: `[B, k]` ascending.
        made: the new tokens.
        order: `raster`: all at their places; `paper`: kept ones, then new ones, on the first
            places.
        score: for traces.
        ahead: `[B, a, D]` states that no token is part of, in front; with `paper` only.
    """
    hidden = tokens.hidden
    parts = (take(hidden.float(), kept), made.states)
    states = torch.cat(parts if ahead is None else (ahead.float(), *parts), dim=1)
    first = 0 if ahead is None else ahead.shape[1]
    place = torch.cat((kept, made.place), dim=1)
    number = torch.arange(states.shape[1], device=place.device).expand(place.shape[0], -1)
    anchor = number
    if order == "raster":
        anchor, ranked = place.sort(dim=1)
        states, number = take(states, ranked), ranked.argsort(dim=1)
    own = number[:, first:]
    slot = place.new_full((place.shape[0], tokens.count), -1).scatter(1, place, own)
    slot = slot.scatter(1, made.member, own[:, kept.shape[1] :].gather(1, made.joins))
    return Reduction(anchor=anchor, slot=slot, created=states.to(hidden.dtype), score=score)


def listed(tokens: Tokens, index: Tensor, *, score: Tensor | None = None) -> Reduction:
    """Kept tokens in an order of their own, on the first places.

    Args:
        tokens: what arrived.
        index: `[B, K]` those that stay, in any order.
        score: for traces.
    """
    number = torch.arange(index.shape[1], device=index.device).expand_as(index)
    slot = index.new_full((index.shape[0], tokens.count), -1).scatter(1, index, number)
    states = take(tokens.hidden, index)
    return Reduction(anchor=number, slot=slot, created=states, score=score)
