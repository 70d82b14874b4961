"""TSTM: trees of tokens that are alike from frame to frame, and clusters of these."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil

import torch
from torch import Tensor

from tokenprune.ops import bipartite_match, cluster_dpc, merge_compact, sum_compact
from tokenprune_strategies.shared.counts import fitted
from tokenprune_strategies.shared.parts import Parts

_NEIGHBOURS = 7
"""k of the density at most, the code's."""


def parents(hidden: Tensor, rest: Sequence[Tensor], tau: float, most: int) -> Tensor:
    """The token of the frame before that each goes to, `[N]`; its own number if it stays.

    Args:
        hidden: `[N, D]`, compared by cosine.
        rest: by frame the tokens in question, ascending.
        tau: cosine above which a token goes.
        most: how many may go; those with the largest cosines do, of equal ones the lower.
    """
    likeness = torch.full_like(hidden[:, 0], -torch.inf)
    parent = torch.zeros_like(likeness, dtype=torch.int64)
    for before, mine in pairwise(rest):
        if len(before) and len(mine):
            value, place = bipartite_match(hidden[mine][None], hidden[before][None])
            likeness[mine] = value[0].to(likeness.dtype)
            parent[mine] = before[place[0]]
    order = likeness.argsort(descending=True, stable=True)
    going = torch.zeros_like(parent, dtype=torch.bool)
    going[order[:most]] = True
    here = torch.arange(len(hidden), device=hidden.device)
    return torch.where(going & (likeness > tau), parent, here)


def roots(parent: Tensor) -> Tensor:
    """The token `[N]` that the tree of each grows from."""
    root = parent
    for _ in range(len(parent).bit_length()):  # twice as far each time
        root = root[root]
    return root


def grown(hidden: Tensor, parent: Tensor, root: Tensor) -> Tensor:
    """What trees become, `[N, D]` by root: the sum of all tokens over one and the root's children.

    So a tree of more than two frames is longer than its tokens, as in the code.
    """
    count, ones = len(hidden), torch.ones_like(hidden[:, 0])[None]
    mean = merge_compact(hidden[None], root[None], ones, count)[0]
    size = sum_compact(ones, root[None], count)[0]
    child = (parent != torch.arange(count, device=parent.device)).to(hidden.dtype)[None]
    children = sum_compact(child, parent[None], count)[0]
    return mean * (size / (1 + children))[:, None]


def clustered(
    parts: Parts, trees: Tensor, root: Tensor, rest: Sequence[Tensor], budget: int
) -> None:
    """Frame by frame the trees that grow there, or clusters of them if the budget is smaller.

    Args:
        parts: the tokens that are left so far.
        trees: `[N, D]` by root.
        root: `[N]` of every token.
        rest: by frame the tokens in question.
        budget: trees or clusters of all these frames.
    """
    here = [mine[root[mine] == mine] for mine in rest]
    share = budget / max(1, sum(map(len, here)))
    counts = [len(one) if share >= 1 else ceil(len(one) * share - 1e-9) for one in here]
    member = torch.cat([*rest])
    for own, count in zip(here, fitted(counts, budget), strict=True):
        if not count:
            continue
        states = trees[own]
        centre, label = (
            one[0] for one in cluster_dpc(states[None], count, neighbours=min(_NEIGHBOURS, count))
        )
        alike = torch.ones_like(label, dtype=torch.float32)[None]
        made = merge_compact(states[None], label[None], alike, count)[0]
        mine = member[torch.isin(root[member], own)]
        parts.add(own[centre], made, mine, label[torch.searchsorted(own, root[mine])])
