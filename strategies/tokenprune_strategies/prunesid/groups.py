"""Groups of tokens along principal directions, and what does not repeat within them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_NOTHING = 1e-9
"""Share of the largest variance below which a direction has none."""


class Groups(NamedTuple):
    """The groups of every sample's tokens.

    Attributes:
        number: `[B, N]` group of every token.
        part: `[B, N]` how much of the group's direction lies in the token.
    """

    number: Tensor
    part: Tensor


def principal(hidden: Tensor, count: int) -> Groups:
    """Every token goes to the principal direction that it has the largest part of (PSCA).

    Directions are those of the squashed features, in the space whose axes are the tokens; stronger
    ones have lower numbers, and ties go to them. Directions without variance take no token (ours).

    Args:
        hidden: `[B, N, D]`.
        count: directions at most.
    """
    # float64: in float32 a direction's part in a token is lost beside those of stronger ones
    features = hidden.double().sigmoid()
    features = features - features.mean(dim=2, keepdim=True)
    turned = features.transpose(1, 2)
    tokens, width = hidden.shape[1:]
    strength, vectors = torch.linalg.eigh(
        features @ turned if tokens <= width else turned @ features
    )
    strength, vectors = strength.flip(-1)[:, :count], vectors.flip(-1)[..., :count]
    if tokens > width:
        length = strength.clamp(min=torch.finfo(strength.dtype).tiny).sqrt()
        vectors = features @ vectors / length[:, None]
    real = strength > _NOTHING * strength[:, :1].clamp(min=0)
    part, number = vectors.abs().where(real[:, None], 0.0).max(dim=2)
    return Groups(number, part.float())


def distinct(alike: Tensor, group: Tensor, rank: Tensor, tau: Tensor) -> Tensor:
    """Tokens that repeat no better one of their group, `[B, N]` bool (NMS).

    Args:
        alike: `[B, N, N]` cosines.
        group: `[B, N]`.
        rank: `[B, N]` place of every token, the best first.
        tau: `[B]` cosine above which a token repeats one that stays.
    """
    repeats = (alike > tau[:, None, None]) & (group[:, :, None] == group[:, None])
    order = rank.argsort(dim=1)
    stays = torch.ones_like(group, dtype=torch.bool)
    row = torch.arange(len(group), device=group.device)
    for token in order.unbind(dim=1):
        over = repeats[row, token] & (rank > rank[row, token][:, None])
        stays = stays & ~(over & stays[row, token][:, None])
    return stays
