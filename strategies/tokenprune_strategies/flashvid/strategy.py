"""The strategy `flashvid`."""

from __future__ import annotations

from math import ceil

import torch
from pydantic import Field
from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder, PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import max_min_select, merge_compact, topk_indices
from tokenprune_strategies.flashvid.trees import clustered, grown, parents, roots
from tokenprune_strategies.shared.cosine import cosines
from tokenprune_strategies.shared.frames import require_frames
from tokenprune_strategies.shared.parts import Parts
from tokenprune_strategies.shared.saliency import SALIENCY, Attention
from tokenprune_strategies.shared.segments import segments


class FlashVIDParams(StrategyParams):
    """Parameters of `flashvid`, all of its stage before the LLM."""

    score: Attention = Field(
        default="received",
        description="What distances are multiplied by: the attention that a token receives from "
        "all patches, or the class token's.",
    )
    alpha: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="Share of a frame's budget for distant tokens, rounded up; with 0, attention "
        "isn't read.",
    )
    events: bool = Field(
        default=True,
        description="Multiply distances by the product with the segment's mean, too; the code has "
        "false for Qwen.",
    )
    tau: float = Field(
        default=0.8,
        ge=-1,
        le=1,
        description="Cosine above which a token goes to one of the frame before.",
    )
    segments: int = Field(
        default=8,
        ge=1,
        description="Segments of a video at the least; the code has 4 for Qwen.",
    )
    threshold: float = Field(
        default=0.9, ge=-1, le=1, description="Cosine of neighbouring frames below which is a cut."
    )


class FlashVID(PruningStrategy[FlashVIDParams]):
    """Two stages, usable separately: distant tokens and trees before the LLM, attention inside it.

    Source: FlashVID (arXiv 2602.08024), from notes on its project page and its code.
    """

    name = "flashvid"
    Params = FlashVIDParams
    # the code's 20; LLMs of less than 28 layers have the same share of theirs (ours)
    stages = (
        PreLlm(projected=True),
        Decoder(layer=lambda layers: max(1, min(20, layers * 20 // 28))),
    )
    length = "data"
    about = About(
        summary="Keeps distant attended tokens of every frame, merges trees of alike ones over "
        "time; prunes in the LLM.",
        paper="FlashVID, arXiv 2602.08024",
        licence="Written from method notes; the reference code is under the MIT licence, none was "
        "copied.",
        ours={},
        borrowed=dict.fromkeys(FlashVIDParams.model_fields, "the code's"),
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The encoder's attention; inside the LLM that of the last prompt token."""
        if site.stage == "decoder":
            return (Signal.LAST_QUERY_ATTENTION,)
        return (SALIENCY[self.params.score],) if self.params.alpha else ()

    def check(self, site: Site, budget: Budget, grid: Grid) -> None:
        """Refuse a budget without a token for every frame, before the LLM.

        Raises:
            BudgetError: it carries the least number.
        """
        if site.stage == "pre_llm":
            require_frames(site, budget, grid)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """`budget.keep` tokens at most before the LLM, exactly so many inside it."""
        if not budget.remove:
            return Reduction.none()
        if tokens.site.stage == "decoder":
            score = tokens.signal(Signal.LAST_QUERY_ATTENTION)
            return Reduction.keep(topk_indices(score, budget.keep), tokens.count, score=score)
        self.check(tokens.site, budget, tokens.grid)
        own = budget.keep // tokens.grid[0]
        rows = range(tokens.hidden.shape[0])
        return Reduction.ragged([self._video(tokens.of([row]), own) for row in rows])

    def _video(self, tokens: Tokens, own: int) -> Reduction:
        """The answer for one video, from the budget of a frame."""
        hidden, frame = tokens.hidden[0].float(), tokens.position[0, :, 0]
        asked = self.signals(tokens.site)
        score = tokens.signal(asked[0])[0].float() if asked else torch.ones_like(hidden[:, 0])
        ones = torch.ones_like(score)
        middle = merge_compact(hidden[None], frame[None], ones[None], tokens.grid[0])[0]
        parts = Parts(tokens.count)
        distant = ceil(own * self.params.alpha - 1e-9)
        for run in segments(middle, self.params.segments, self.params.threshold):
            gain = score
            if self.params.events:
                gain = score * (hidden @ middle[run.start : run.stop].mean(dim=0))
            frames = [(frame == t).nonzero()[:, 0] for t in range(*run)]
            rest = [_set_aside(parts, hidden, mine, gain, distant) for mine in frames]
            budget = (own - distant) * run.length
            if budget:
                most = max(0, sum(map(len, rest)) - budget)
                parent = parents(hidden, rest, self.params.tau, most)
                root = roots(parent)
                clustered(parts, grown(hidden, parent, root), root, rest, budget)
        return parts.reduction(tokens.hidden.dtype)


def _set_aside(parts: Parts, hidden: Tensor, mine: Tensor, gain: Tensor, count: int) -> Tensor:
    """Keep the `count` tokens of a frame that are attended and far from each other (ADTS).

    Args:
        parts: the tokens that are left so far.
        hidden: `[N, D]`.
        mine: tokens of the frame, ascending.
        gain: `[N]` what distances to a token are multiplied by.
        count: how many, all if there are fewer.

    Returns:
        The others, ascending.
    """
    states, count = hidden[mine], min(count, len(mine))
    picks = max_min_select(1 - cosines(states[None]), count, gain=gain[mine][None])[0].sort().values
    parts.keep(mine[picks], states[picks])
    return mine[torch.isin(mine, mine[picks], invert=True)]
