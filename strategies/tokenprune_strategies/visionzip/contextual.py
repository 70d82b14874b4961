"""Contextual tokens: evenly spaced ones, and what joins them."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.ops import bipartite_match, merge_compact, take
from tokenprune_strategies.shared.assembly import Made


def contextual(hidden: Tensor, keys: Tensor, rest: Tensor, count: int) -> Made:
    """Contextual tokens: a target plus the *mean* of the tokens that join it.

    That is a sum of two, as in the code, so it is about twice as long as a token. Every `R // M`-th
    token is a target; the others join the target with the most similar key.

    Args:
        hidden: `[B, N, D]`.
        keys: `[B, N, d]`, compared by cosine; ties go to the earlier target.
        rest: `[B, R]` tokens in question, ascending.
        count: targets M, from 0 to R; without any, no token joins one.
    """
    if not count:
        return Made(take(hidden.float(), rest[:, :0]), rest[:, :0], rest[:, :0], rest[:, :0])
    target, member = _targets(rest, count)
    _, joins = bipartite_match(take(keys, member), take(keys, target))
    alike = torch.ones_like(joins, dtype=torch.float32)
    mean = merge_compact(take(hidden.float(), member), joins, alike, count)
    return Made(take(hidden.float(), target) + mean, target, member, joins)


def _targets(rest: Tensor, count: int) -> tuple[Tensor, Tensor]:
    step = rest.shape[1] // count
    place = torch.arange(rest.shape[1], device=rest.device)
    # The code counts from 0 in steps and cuts what is too much, so the last tokens are members.
    chosen = (place % step == 0) & (place < step * count)
    order = torch.sort((~chosen).to(torch.int8), stable=True).indices
    return rest[:, order[:count]], rest[:, order[count:]]
