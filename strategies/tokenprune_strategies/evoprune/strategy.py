"""The strategy `evoprune`."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from tokenprune.reduction import Reduction
from tokenprune.strategy import Budget, PruningStrategy
from tokenprune.tokens import Signal, Site, Stage, Tokens
from tokenprune_strategies.bipartite import require_half
from tokenprune_strategies.evoprune.params import OURS, EvoPruneParams
from tokenprune_strategies.evoprune.scoring import choose_pairs, diversity_gain

_IMPORTANCE = {"received": Signal.ATTENTION_RECEIVED, "cls": Signal.CLS_ATTENTION}


class EvoPrune(PruningStrategy[EvoPruneParams]):
    """Merge inside the encoder: similar pairs first, sparse regions last, critical tokens never.

    Source: EvoPrune (arXiv 2603.03681, algorithm 1, sections 3.2 to 3.4). `ours` names every
    default that the paper leaves open.
    """

    name: ClassVar[str] = "evoprune"
    Params = EvoPruneParams
    stages: ClassVar[tuple[Stage, ...]] = ("encoder",)
    summary: ClassVar[str] = (
        "Merges tokens inside the vision encoder by similarity, diversity and attention."
    )
    paper: ClassVar[str] = "EvoPrune, arXiv 2603.03681"
    licence_note: ClassVar[str] = "Written from notes on the paper; no official code was found."
    ours: ClassVar[dict[str, str]] = OURS
    default_schedule: ClassVar[str] = "skip"
    halves: ClassVar[bool] = True

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """Importance and keys of the same block, as far as the parameters use them."""
        wanted = [_IMPORTANCE[self.params.importance]] if self._protects else []
        if self.params.metric == "keys":
            wanted.append(Signal.KEYS)
        return tuple(wanted)

    def proportional(self) -> bool:
        """As the parameter says; not mentioned in the paper."""
        return self.params.proportional_attention

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Merge `budget.remove` pairs; protected tokens come out as they went in.

        Raises:
            BudgetError: more than half of the tokens are to go.
        """
        if budget.remove == 0:
            return Reduction.none()
        require_half(tokens.count, budget.remove, str(tokens.site))
        params = self.params
        metric = tokens.signal(Signal.KEYS) if params.metric == "keys" else tokens.hidden
        importance = tokens.signal(_IMPORTANCE[params.importance]) if self._protects else None
        gain = self._gain(metric)
        pairs = choose_pairs(
            metric,
            importance,
            gain,
            budget.remove,
            ratio=params.critical_token_ratio,
            partition=params.partition,
            # Alone, the halved cosine orders as the plain one does, but rounds neighbours together.
            squash=params.similarity == "halved" and gain is not None,
        )
        weight = tokens.size if params.size_weighted else torch.ones_like(tokens.size)
        return Reduction.merge(pairs.source, pairs.target, weight, score=importance)

    @property
    def _protects(self) -> bool:
        return self.params.attention and self.params.critical_token_ratio > 0

    def _gain(self, metric: Tensor) -> Tensor | None:
        params = self.params
        if params.diversity_weight == 0:
            return None
        tau = None if params.tau == "auto" else params.tau
        return diversity_gain(metric, params.diversity_weight, params.neighbours, tau)
