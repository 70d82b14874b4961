"""Contextual tokens: evenly spaced ones, and what joins them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tokenprune.ops import bipartite_match, merge_compact, take


class Contexts(NamedTuple):
    """Which tokens are targets, and which join them.

    Attributes:
        target: `[B, M]` tokens that become contextual ones.
        member: `[B, R - M]` the others.
        joins: `[B, R - M]` number of the target that each member joins.
    """

    target: Tensor
    member: Tensor
    joins: Tensor


def contexts(keys: Tensor, rest: Tensor, count: int) -> Contexts:
    """Every `R // M`-th token is a target; the others join the target with the most similar key.

    Args:
        keys: `[B, N, d]`, compared by cosine; ties go to the earlier target.
        rest: `[B, R]` tokens in question, ascending.
        count: targets M, from 0 to R; without any, no token joins one.
    """
    if not count:
        return Contexts(rest[:, :0], rest[:, :0], rest[:, :0])
    length = rest.shape[1]
    step = length // count
    place = torch.arange(length, device=rest.device)
    # The code counts from 0 in steps and cuts what is too much, so the last tokens are members.
    chosen = (place % step == 0) & (place < step * count)
    order = torch.sort((~chosen).to(torch.int8), stable=True).indices
    target, member = rest[:, order[:count]], rest[:, order[count:]]
    _, joins = bipartite_match(take(keys, member), take(keys, target))
    return Contexts(target, member, joins)


def contextual(hidden: Tensor, found: Contexts) -> Tensor:
    """States of the contextual tokens: a target plus the *mean* of its members, `[B, M, D]`.

    That is a sum of two, as in the code, so it is about twice as long as a token.
    """
    members = take(hidden.float(), found.member)
    alike = torch.ones_like(found.joins, dtype=torch.float32)
    mean = merge_compact(members, found.joins, alike, found.target.shape[1])
    return take(hidden.float(), found.target) + mean
