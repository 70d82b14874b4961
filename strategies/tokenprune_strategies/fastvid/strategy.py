"""The strategy `fastvid`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import bipartite_match, cluster_dpc, merge_compact, sum_compact
from tokenprune_strategies.fastvid.anchors import anchors
from tokenprune_strategies.shared.frames import require_frames
from tokenprune_strategies.shared.parts import Parts
from tokenprune_strategies.shared.runs import Run
from tokenprune_strategies.shared.saliency import SALIENCY, Attention
from tokenprune_strategies.shared.segments import segments

_OWN, _NEIGHBOURS = 0.6, 4
"""Least share of a centre in its cluster, and k of the density: the code's."""


class FastVIDParams(StrategyParams):
    """Parameters of `fastvid`."""

    score: Attention = Field(
        default="received",
        description="What salient tokens are ranked by: the attention that a token receives from "
        "all patches, or the class token's.",
    )
    context: float = Field(
        default=0.4,
        ge=0,
        le=1,
        description="Share of a frame's budget for clusters, rounded down; with 1, attention isn't "
        "read.",
    )
    segments: int = Field(default=8, ge=1, description="Segments of a video at the least.")
    threshold: float = Field(
        default=0.9, ge=-1, le=1, description="Cosine of neighbouring frames below which is a cut."
    )
    stride: int = Field(default=4, ge=1, description="Distance of anchor frames in a segment.")


class FastVID(PruningStrategy[FastVIDParams]):
    """Before the LLM, on projected tokens: salient tokens, and clusters at anchor frames.

    Source: FastVID (arXiv 2503.11187, section 3), and notes on its code.
    """

    name = "fastvid"
    Params = FastVIDParams
    stages = (PreLlm(projected=True),)
    length = "data"
    about = About(
        summary="Keeps every frame's salient tokens, merges a segment's others at anchor frames.",
        paper="FastVID, arXiv 2503.11187",
        licence="Written from method notes; the reference code is under the MIT licence, none was "
        "copied.",
        ours={"score": "the code reads the pooling head of SigLIP, which models don't hand on"},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The attention that salient tokens are ranked by."""
        return () if self.params.context == 1 else (SALIENCY[self.params.score],)

    def check(self, site: Site, budget: Budget, grid: Grid) -> None:
        """Refuse a budget without a token for every frame.

        Raises:
            BudgetError: it carries the least number.
        """
        require_frames(site, budget, grid)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Video by video; `budget.keep` tokens at most, in raster order."""
        if not budget.remove:
            return Reduction.none()
        self.check(tokens.site, budget, tokens.grid)
        own = budget.keep // tokens.grid[0]
        rows = range(tokens.hidden.shape[0])
        return Reduction.ragged([self._one(tokens.of([row]), own) for row in rows])

    def _one(self, tokens: Tokens, own: int) -> Reduction:
        hidden, frame = tokens.hidden[0].float(), tokens.position[0, :, 0]
        context = int(own * self.params.context + 1e-9)
        parts = Parts(tokens.count)
        rest = [(frame == t).nonzero()[:, 0] for t in range(tokens.grid[0])]
        if own > context:
            (signal,) = self.signals(tokens.site)
            score = tokens.signal(signal)[0].float()
            for t, mine in enumerate(rest):
                order = score[mine].argsort(descending=True, stable=True)
                best = mine[order[: own - context]]
                parts.keep(best, hidden[best])
                rest[t] = mine[order[own - context :]].sort().values
        if context:
            ones = torch.ones_like(hidden[:, 0])
            middle = merge_compact(hidden[None], frame[None], ones[None], len(rest))[0]
            for run in segments(middle, self.params.segments, self.params.threshold):
                self._cluster(parts, hidden, rest, run, context)
        return parts.reduction(tokens.hidden.dtype)

    def _cluster(
        self, parts: Parts, hidden: Tensor, rest: Sequence[Tensor], run: Run, context: int
    ) -> None:
        """Clusters of a segment's tokens around centres of each of its anchor frames."""
        found, noted = anchors(run, self.params.stride), run.start
        whole = torch.cat([rest[t] for t in range(*run)])
        for anchor in found:
            count = min(context * run.length // len(found), len(rest[anchor]))
            if count:
                centre, _ = cluster_dpc(hidden[rest[anchor]][None], count, neighbours=_NEIGHBOURS)
                place = rest[anchor][centre[0]]
                states, label = gathered(hidden, place, whole)
                # A token goes into a cluster of every anchor; noted is that of the next one.
                mine = torch.cat([rest[t] for t in range(noted, anchor + 1)])
                parts.add(place, states, mine, label[torch.isin(whole, mine)])
            noted = anchor + 1


def gathered(hidden: Tensor, place: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens joined to the centre with the largest cosine, and what the centres become.

    Args:
        hidden: `[N, D]`.
        place: `[c]` tokens that are centres.
        member: `[m]` tokens, ascending, centres among them or not.

    Returns:
        States `[c, D]`: a share w of the centre and 1 - w of its members' mean, w being 0.6 or,
        with few members n, 1 / (n + 1) where that is more; and the centre of every member, `[m]`.
    """
    _, label = bipartite_match(hidden[member][None], hidden[place][None])
    own = member[:, None] == place
    label = torch.where(own.any(dim=1), own.int().argmax(dim=1), label[0])
    ones = torch.ones_like(hidden[member][:, 0])
    mean = merge_compact(hidden[member][None], label[None], ones[None], len(place))[0]
    size = sum_compact(ones[None], label[None], len(place))[0]
    share = (1 / (size + 1)).clamp(min=_OWN)[:, None]
    return share * hidden[place] + (1 - share) * mean, label
