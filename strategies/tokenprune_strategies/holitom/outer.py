"""The stage before the LLM: static places of windows become clusters, the rest is ranked."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from tokenprune.ops import cluster_dpc, merge_compact
from tokenprune_strategies.shared.clusters import blended
from tokenprune_strategies.shared.parts import Parts
from tokenprune_strategies.shared.runs import Run

_OWN, _NEIGHBOURS = 0.6, 7
"""Share of a centre in its cluster, and k of the density at most: the code's."""


class Group(NamedTuple):
    """Tokens that share a budget.

    Attributes:
        states: `[L, D]`: of tokens of a frame, or means of places over a window.
        place: `[L]` token whose place each has.
        member: `[m]` tokens.
        of: `[m]` row of `states` that each is part of.
        static: whether these are places of a window.
    """

    states: Tensor
    place: Tensor
    member: Tensor
    of: Tensor
    static: bool

    def natural(self, retain: float) -> int:
        """Tokens that it is left: rounded for places of a window, rounded up for a frame."""
        share = len(self.place) * retain
        return round(share) if self.static else ceil(share - 1e-9)


def groups(hidden: Tensor, index: Tensor, still: Tensor, found: Sequence[Run]) -> list[Group]:
    """The static places of every window, and frame by frame the other tokens.

    Args:
        hidden: `[N, D]`.
        index: `[N]` patch of every token in the video.
        still: `[T - 1, n]` True where a place is alike in a frame and in the next.
        found: windows.
    """
    frame, location = index // still.shape[1], index % still.shape[1]
    made = []
    for run in found:
        static = still[run.start : run.stop - 1].all(dim=0) & (run.length > 1)
        mine = (frame >= run.start) & (frame < run.stop)
        member = (mine & static[location]).nonzero()[:, 0]
        if len(member):
            _, of = torch.unique(location[member], return_inverse=True)
            ones = torch.ones_like(hidden[member][:, 0])
            count = len(member) // run.length
            mean = merge_compact(hidden[member][None], of[None], ones[None], count)[0]
            # In raster order those of the first frame come first.
            made.append(Group(mean, member[:count], member, of, static=True))
        for t in range(*run):
            one = ((frame == t) & ~static[location]).nonzero()[:, 0]
            own = torch.arange(len(one), device=one.device)
            made.append(Group(hidden[one], one, one, own, static=False))
    return made


def place_in(
    parts: Parts, group: Group, count: int, score: Tensor | None, contextual: float
) -> None:
    """What a group becomes: clusters, or its most attended tokens and clusters of the others.

    Args:
        parts: the tokens that are left so far.
        group: the group.
        count: tokens that it is left.
        score: `[N]`; None if all is clustered.
        contextual: share of a frame's tokens that are clusters.
    """
    ranked = 0 if group.static or score is None else round(count * (1 - contextual))
    rest = torch.arange(len(group.place), device=group.place.device)
    if ranked:
        assert score is not None
        order = score[group.place].argsort(descending=True, stable=True)
        best, rest = order[:ranked], order[ranked:].sort().values
        parts.keep(group.place[best], group.states[best])
    clusters = min(count - ranked, len(rest))
    if clusters < 1:
        return
    states = group.states[rest]
    centre, label = (
        one[0] for one in cluster_dpc(states[None], clusters, neighbours=min(_NEIGHBOURS, clusters))
    )
    if group.static:
        member, joins = group.member, label[group.of]
    else:
        member, joins = group.place[rest], label
    made = blended(states, centre, label, own=_OWN)
    parts.add(group.place[rest][centre], made, member, joins)
