"""Pivots, and what each of them brings along."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.ops import take, topk_indices


class Pivots(NamedTuple):
    """Tokens that others are compared with.

    Attributes:
        token: `[B, P]` which they are, the longest first.
        states: `[B, P, D]` of each.
        real: `[B, P]` False where a sample has fewer.
    """

    token: Tensor
    states: Tensor
    real: Tensor


def pivots(length: Tensor, states: Tensor, count: int, there: Tensor) -> Pivots:
    """The tokens with the largest length; ties go to the lower index.

    Args:
        length: `[B, S]`.
        states: `[B, S, D]`.
        count: how many at most.
        there: `[B, S]` which tokens may be chosen.
    """
    ranked = length.float().masked_fill(~there, -torch.inf)
    index = ranked.argsort(dim=1, descending=True, stable=True)[:, :count]
    return Pivots(index, take(states, index), there.gather(1, index))


def least_alike(states: Tensor, visual: Pivots, text: Pivots, keep: int) -> Tensor:
    """The visual pivots, and for each pivot in turn the tokens left that are least like it.

    All pivots bring equally many; what doesn't divide goes to the first ones (ours).

    Args:
        states: `[B, N, D]`, compared by cosine.
        visual: pivots among them, kept.
        text: pivots among the prompt's text, which only guide.
        keep: tokens K in all.

    Returns:
        `[B, K]` ascending; ties go to the lower index.
    """
    guides = normalize(torch.cat((visual.states, text.states), dim=1).float(), dim=-1)
    likeness = guides @ normalize(states.float(), dim=-1).transpose(1, 2)
    real = torch.cat((visual.real, text.real), dim=1)
    quotas = _quotas(real, keep - visual.token.shape[1])
    taken = torch.zeros_like(likeness[:, 0], dtype=torch.bool)
    taken = taken.scatter(1, visual.token, torch.ones_like(visual.real))
    place = torch.arange(taken.shape[1], device=taken.device)
    for number in range(real.shape[1]):
        # What is taken already comes last, and quotas never reach it: they add up to what is free.
        order = likeness[:, number].masked_fill(taken, torch.inf).argsort(dim=1, stable=True)
        chosen = (place < quotas[:, number, None]).expand_as(taken)
        taken = taken | torch.zeros_like(taken).scatter(1, order, chosen)
    return topk_indices(taken.float(), keep)


def _quotas(real: Tensor, count: int) -> Tensor:
    """How many tokens each pivot brings, `[B, P]`, `count` in all."""
    total = real.sum(dim=1, keepdim=True).clamp(min=1)
    first = real.cumsum(dim=1) - 1 < count % total
    return torch.where(real, count // total + first.long(), 0)
