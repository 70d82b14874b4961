"""How many tokens every group is left."""

from __future__ import annotations

import torch
from torch import Tensor


def quotas(size: Tensor, distinct: Tensor, keep: int) -> Tensor:
    """Tokens of every group, `[B, G]`, `keep` in all.

    One each, the others in proportion to the distinct ones, rounded so that the sums from the first
    group on are the nearest numbers. No group gets more than its bound; what that leaves over goes
    to the groups with the most distinct tokens, one filled after another; ties: the earlier group.

    Args:
        size: `[B, G]` tokens, `keep` or more in all.
        distinct: `[B, G]` those of them that repeat no other.
        keep: tokens in all, no fewer than groups.
    """
    most, least = bounds(size, distinct, keep), size.clamp(max=1)
    others = keep - least.sum(dim=1, keepdim=True)
    ends = rounded(distinct.cumsum(dim=1) * others, distinct.sum(dim=1, keepdim=True))
    shares = ends.diff(dim=1, prepend=torch.zeros_like(ends[:, :1]))
    found = torch.minimum(least + shares, most)
    order = distinct.argsort(dim=1, descending=True, stable=True)
    room = (most - found).gather(1, order)
    over = keep - found.sum(dim=1, keepdim=True)
    more = torch.minimum((over - (room.cumsum(dim=1) - room)).clamp(min=0), room)
    return found + more.gather(1, order.argsort(dim=1))


def bounds(size: Tensor, distinct: Tensor, keep: int) -> Tensor:
    """The most that every group may get, `[B, G]`.

    5 for every 64 tokens that are kept, and no more than its distinct ones. Where that is too few
    for the budget, all groups get one more, as far as they have tokens, until it isn't.
    """
    first = torch.minimum(size, distinct).clamp(max=5 * -(-keep // 64))
    rounds = torch.arange(keep + 1, device=size.device)
    wider = torch.minimum(first[:, None] + rounds[:, None], size[:, None])
    enough = (wider.sum(dim=2) >= keep).to(torch.int8).argmax(dim=1)
    return torch.minimum(first + enough[:, None], size)


def rounded(over: Tensor, under: Tensor) -> Tensor:
    """The quotient of two tensors of positive integers, halves to the even number."""
    twice, whole = 2 * over + under, 2 * under
    nearest = twice // whole
    return nearest - (twice % whole == 0).long() * (nearest % 2)
