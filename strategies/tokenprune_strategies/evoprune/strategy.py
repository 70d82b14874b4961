"""The strategy `evoprune`."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import Encoder
from tokenprune.interface.records import changed
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import Diversity, match_pairs
from tokenprune_strategies.evoprune.params import OURS, EvoPruneParams
from tokenprune_strategies.evoprune.scoring import kept_on, protected_count, split
from tokenprune_strategies.evoprune.temporal import neighbouring_pairs
from tokenprune_strategies.shared.bipartite import require_half

_IMPORTANCE = {"received": Signal.ATTENTION_RECEIVED, "cls": Signal.CLS_ATTENTION}

PROTECTED = "evoprune.protected"
"""Rider `[B, N]`: tokens that a step protected, with `protect: forever`."""


class EvoPrune(PruningStrategy[EvoPruneParams]):
    """Merge inside the encoder: similar pairs first, sparse regions last, critical tokens never.

    Source: EvoPrune (arXiv 2603.03681, algorithm 1, sections 3.2 to 3.4). `ours` names every
    default that the paper leaves open.
    """

    name = "evoprune"
    Params = EvoPruneParams
    stages = (Encoder(schedule="skip", halves=True),)
    about = About(
        summary="Merges tokens inside the vision encoder by similarity, diversity and attention.",
        paper="EvoPrune, arXiv 2603.03681",
        licence="Written from notes on the paper; no official code was found.",
        ours=OURS,
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """Importance and keys of the same block, as far as the parameters use them."""
        wanted = [_IMPORTANCE[self.params.importance]] if self._protects else []
        if self.params.metric == "keys":
            wanted.append(Signal.KEYS)
        return tuple(wanted)

    def proportional(self) -> bool:
        """As the parameter says; not mentioned in the paper."""
        return self.params.proportional_attention

    def spans_frames(self) -> bool:
        """Whether tokens of neighbouring frames may merge, as the parameter says."""
        return self.params.temporal

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Merge `budget.remove` pairs; protected tokens come out as they went in.

        With `temporal`, every frame of a video gives up equally many of its tokens.

        Raises:
            BudgetError: more than half of the tokens are to go.
        """
        if budget.remove == 0:
            return Reduction.none()
        frames = tokens.grid[0] if self.params.temporal else 1
        require_half(tokens.count // frames, budget.remove // frames, tokens.site)
        importance = self._importance(tokens)
        ranked, riders = importance, {}
        if importance is not None and self.params.protect == "forever":
            number = protected_count(tokens.count, budget.remove, self.params.critical_token_ratio)
            ranked, now = kept_on(importance, tokens.riders.get(PROTECTED), number)
            riders = {PROTECTED: now}
        source, target = self._pairs(tokens, ranked, budget.remove)
        weight = tokens.size if self.params.size_weighted else torch.ones_like(tokens.size)
        answer = Reduction.merge(source, target, weight, score=importance)
        return changed(answer, riders=riders) if riders else answer

    def _importance(self, tokens: Tokens) -> Tensor | None:
        """What protected tokens are chosen by, `[B, N]`; None if none is protected."""
        if not self._protects:
            return None
        importance = tokens.signal(_IMPORTANCE[self.params.importance])
        return importance / tokens.size if self.params.importance_per == "patch" else importance

    def _pairs(
        self, tokens: Tokens, importance: Tensor | None, remove: int
    ) -> tuple[Tensor, Tensor]:
        params = self.params
        metric = tokens.signal(Signal.KEYS) if params.metric == "keys" else tokens.hidden
        frames = tokens.grid[0] if params.temporal else 1
        metric, remove = _by_frame(metric, frames), remove // frames
        parts = split(
            None if importance is None else _by_frame(importance, frames),
            metric.shape[1],
            remove,
            ratio=params.critical_token_ratio,
            partition=params.partition,
        )
        diversity = self._diversity
        # Alone, the halved cosine orders as the plain one does, but rounds neighbours together.
        squash = params.similarity == "halved" and diversity is not None
        if frames > 1:
            return neighbouring_pairs(
                metric, parts, remove, frames, diversity=diversity, squash=squash
            )
        return match_pairs(
            metric,
            remove,
            order=parts.order,
            candidates=parts.candidates,
            blocked=parts.blocked,
            diversity=diversity,
            squash=squash,
        )

    @property
    def _protects(self) -> bool:
        return self.params.attention and self.params.critical_token_ratio > 0

    @property
    def _diversity(self) -> Diversity | None:
        params = self.params
        if params.diversity_weight == 0:
            return None
        tau = None if params.tau == "auto" else params.tau
        return Diversity(params.diversity_weight, params.neighbours, tau)


def _by_frame(values: Tensor, frames: int) -> Tensor:
    """Values of videos as those of their frames: `[V, T * N, ...]` -> `[V * T, N, ...]`."""
    if frames == 1:
        return values
    return values.reshape(-1, values.shape[1] // frames, *values.shape[2:])
