"""The two stages of PruneVid: merging before the LLM, selection inside it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder, PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy
from tokenprune.interface.tokens import Tokens
from tokenprune_strategies.prunevid.grouping import Group, Video, coarse_groups, groups, sizes
from tokenprune_strategies.prunevid.merging import fitted, merged, natural
from tokenprune_strategies.prunevid.params import OURS, PruneVidParams
from tokenprune_strategies.prunevid.selecting import selected, to_budget

SEGMENT = "prunevid_segment"
"""Rider `[B, N, 2]`: whether a token is static, and frames since the first of its segment."""
PAPER_LAYER, PAPER_LAYERS = 11, 28


def paper_layer(layers: int) -> int:
    """The paper prunes behind layer 10 of 28 or 32; shallower LLMs take that share (ours)."""
    return min(PAPER_LAYER, max(1, layers * PAPER_LAYER // PAPER_LAYERS))


class PruneVid(PruningStrategy[PruneVidParams]):
    """Two stages, each usable alone.

    At `pre_llm`, on projected tokens: frames are clustered into segments; locations that stay alike
    within a segment become one token each; what is alike in space is merged, static tokens within
    the segment and dynamic ones within the frame. At `decoder`: the tokens that the question looks
    at most are kept, also in the cache of the layers before.

    Source: PruneVid (arXiv 2412.16117); the density's form, the repair of segments, the ranking
    within groups and the sizes left untouched follow its released code. Ours: ties go by index
    instead of noise; segments of one frame, and locations seen once in a segment, are dynamic; a
    merged token has its cluster centre's place, a static one's in its first frame, and the sequence
    follows these places; means weigh tokens by size, which is the paper's plain mean for patches;
    a `keep` at `pre_llm` is a ceiling that cuts down the cluster counts, and at `decoder` is met
    exactly.
    """

    name = "prunevid"
    Params = PruneVidParams
    stages = (PreLlm(projected=True, positions="compact"), Decoder(layer=paper_layer))
    length = "own"
    about = About(
        summary="Merges what a video repeats, then keeps what the question looks at.",
        paper="PruneVid, arXiv 2412.16117",
        licence="Written from notes; the official code (CC BY-NC-SA 4.0) was not used.",
        ours=OURS,
        borrowed={"neighbours": "the code's", "untouched": "the code's", "scope": "the code's"},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """Inside the LLM, the most that a text query gives to each token."""
        return (Signal.QUESTION_ATTENTION_MAX,) if site.stage == "decoder" else ()

    def trims_cache(self) -> bool:
        """As the parameter says."""
        return self.params.trim_cache

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Merge sample by sample before the LLM, keep a mask inside it."""
        batch = range(tokens.hidden.shape[0])
        if tokens.site.stage == "pre_llm":
            return Reduction.ragged([self._merge(tokens, budget, row) for row in batch])
        score = tokens.signal(Signal.QUESTION_ATTENTION_MAX).float()
        rank = group_numbers(tokens) if self.params.scope == "group" else None
        mask = [self._select(score[row], rank, budget, row) for row in batch]
        return Reduction.keep_mask(torch.stack(mask), score=score)

    def _merge(self, tokens: Tokens, budget: Budget, row: int) -> Reduction:
        params, position = self.params, tokens.position[row]
        hidden = tokens.hidden[row].float()
        if params.scale == "rms":
            hidden = unit_scale(hidden)
        video = Video.of(hidden, position, tokens.grid[2])
        found = groups(video, params.gamma, params.tau, params.neighbours)
        counts = self._natural(found)
        if budget.given and sum(counts) > budget.keep:
            if len(found) > budget.keep:
                found = coarse_groups(video, params.gamma, params.neighbours, budget.keep)
                counts = self._natural(found)
            counts = fitted(counts, budget.keep)
        made, note = merged(found, counts, params.neighbours, tokens.size[row])
        lag = (position[:, 0] - note[:, 1]) * note[:, 0]
        return replace(made, riders={SEGMENT: torch.stack((note[:, 0], lag), dim=-1)[None]})

    def _natural(self, found: list[Group]) -> list[int]:
        return [natural(n, self.params.beta, self.params.untouched) for n in sizes(found)]

    def _select(self, score: Tensor, rank: Tensor | None, budget: Budget, row: int) -> Tensor:
        own = None if rank is None else rank[row]
        chosen = selected(score, own, self.params.alpha, self.params.min_keep_per_group)
        return to_budget(chosen, score, budget.keep) if budget.given else chosen


def unit_scale(hidden: Tensor) -> Tensor:
    """Features `[N, D]` divided by their root mean square; zeros stay zeros."""
    power = hidden.square().mean().sqrt()
    return hidden / torch.where(power > 0, power, torch.ones_like(power))


def group_numbers(tokens: Tokens) -> Tensor:
    """Groups of stage 2, `[B, N]`: a segment's static tokens, or the others of a frame.

    Without the first stage's notes, every frame is a group (ours).
    """
    frame = tokens.position[..., 0]
    note = tokens.riders.get(SEGMENT)
    if note is None:
        return 2 * frame
    return 2 * (frame - note[..., 1]) + note[..., 0]
