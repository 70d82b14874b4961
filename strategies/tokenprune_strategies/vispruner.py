"""VisPruner: the tokens that the class token looks at, and the most diverse of the others."""

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
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import bipartite_match, take
from tokenprune_strategies.shared.bipartite import alternate
from tokenprune_strategies.shared.saliency import SaliencyParams

STEP = 8
"""Tokens that one round takes out at most, as in the code."""


class VisPrunerParams(SaliencyParams):
    """Parameters of `vispruner`."""

    important: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of the budget for the tokens with the most attention, rounded down; the "
        "rest of the budget goes to diverse ones.",
    )


class VisPruner(PruningStrategy[VisPrunerParams]):
    """Before the LLM: important tokens by attention, then diverse ones by removing duplicates.

    Source: "Beyond Text-Visual Attention" (arXiv 2412.01818, section 3), and notes on its code.
    """

    name = "vispruner"
    Params = VisPrunerParams
    stages = (PreLlm(),)
    about = About(
        summary="Keeps the tokens the class token attends to, and diverse ones of the others.",
        paper="Beyond Text-Visual Attention (VisPruner), arXiv 2412.01818",
        licence="Written from method notes; the reference code is under Apache-2.0, none was "
        "copied.",
        ours={},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The class token's row, or the attention that a patch receives."""
        return (self.params.saliency,)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep exactly `budget.keep` tokens, in raster order."""
        score = tokens.signal(self.params.saliency)
        important = int(budget.keep * self.params.important + 1e-9)
        order = score.argsort(dim=1, descending=True, stable=True)
        rest = diverse(tokens.hidden, order[:, important:], budget.keep - important)
        index = torch.cat((order[:, :important], rest), dim=1).sort(dim=1).values
        return Reduction.keep(index, tokens.count, score=score)


def diverse(hidden: Tensor, listed: Tensor, keep: int) -> Tensor:
    """Take the tokens out of a list that another one is most similar to, round by round.

    A round splits the list into its even and odd places and removes the even ones that are most
    similar to an odd one. What is left of them, the most similar first, stands in front of the odd
    ones in the next round, so the order of the list decides who is compared.

    Args:
        hidden: `[B, N, D]`, compared by cosine.
        listed: `[B, R]` the tokens in question, in order.
        keep: how many are left at the end.

    Returns:
        Indices `[B, keep]`, in the order of the last list.
    """
    while listed.shape[1] > keep:
        even, odd = alternate(listed)
        # no more than there are even places: short lists only, for which the code has no answer
        remove = min(STEP, listed.shape[1] - keep, even.shape[1])
        if odd.shape[1]:
            likeness, _ = bipartite_match(take(hidden, even), take(hidden, odd))
            even = even.gather(1, likeness.argsort(dim=1, descending=True, stable=True))
        listed = torch.cat((even[:, remove:], odd), dim=1)
    return listed
