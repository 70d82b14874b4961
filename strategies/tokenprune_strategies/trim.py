"""TRIM: visual tokens that stand out against the question in CLIP's space, and a mean."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy
from tokenprune.interface.text_tower import TowerChoice
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import take, topk_indices
from tokenprune_strategies.shared.assembly import Made, Order, assembled
from tokenprune_strategies.shared.indexing import complement
from tokenprune_strategies.shared.outliers import outliers
from tokenprune_strategies.shared.text_tower import TowerParams


class TrimParams(TowerParams):
    """Parameters of `trim`."""

    order: Order = Field(
        default="raster",
        description="Order of the tokens in the prompt: each at its own place, the mean at that of "
        "the best of those that it is made of; or kept ones first, then the mean, on the first "
        "places.",
    )


class Trim(PruningStrategy[TrimParams]):
    """Before the LLM: keep what stands out against the question, add the mean of the rest.

    Source: TRIM (arXiv 2409.10994, section 3), and notes on its code, whose minus sign is kept.
    """

    name = "trim"
    Params = TrimParams
    stages = (PreLlm(),)
    length = "own"
    about = About(
        summary="Keeps tokens that stand out against the question in CLIP's space, and a mean.",
        paper="Less is More: A Simple yet Effective Token Reduction Method (TRIM), "
        "arXiv 2409.10994",
        licence="Written from method notes; the reference code is under Apache-2.0, none was "
        "copied.",
        ours={"order": "tokens stay at their places, so that position ids and pictures are true"},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """Visual tokens and the question, cut to the tower's length, in the tower's space."""
        return (Signal.TOWER_TOKENS, Signal.TOWER_QUESTION)

    def text_tower(self) -> TowerChoice:
        """As the plan says."""
        return self.params.tower(self.name)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """The outliers and a mean, sample by sample; exactly `budget.keep` if the plan says so."""
        if budget.given and not budget.remove:
            return Reduction.none()
        score = against(tokens.signal(Signal.TOWER_TOKENS), tokens.signal(Signal.TOWER_QUESTION))
        if budget.given:
            return self._with_mean(tokens, score, max(1, budget.keep - 1), mean=budget.keep > 1)
        rows = range(tokens.hidden.shape[0])
        return Reduction.ragged(
            [
                self._with_mean(tokens.of([row]), score[[row]], outliers(score[row]), mean=True)
                for row in rows
            ]
        )

    def _with_mean(self, tokens: Tokens, score: Tensor, count: int, *, mean: bool) -> Reduction:
        """Keep the `count` best, and put in the mean of the others if there are any."""
        kept = topk_indices(score, count)
        rest = complement(kept, tokens.count)
        if not mean or not rest.shape[1]:
            return Reduction.keep(kept, tokens.count, score=score)
        best = score.gather(1, rest).argmax(dim=1, keepdim=True)
        made = Made(
            states=take(tokens.hidden.float(), rest).mean(dim=1, keepdim=True),
            place=rest.gather(1, best),
            member=rest,
            joins=torch.zeros_like(rest),
        )
        return assembled(tokens, kept, made, self.params.order, score=score)


def against(tokens: Tensor, question: Tensor) -> Tensor:
    """Softmax over tokens of minus the dot product, `[B, N, E]` and `[B, E]` -> `[B, N]`."""
    return (-(tokens @ question[:, :, None])[..., 0]).softmax(dim=1)
