"""CDPruner as in the paper: a diverse set, given the question in the space of CLIP."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.interface.about import About
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy
from tokenprune.interface.text_tower import TowerChoice
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import dpp_select
from tokenprune_strategies.shared.cosine import cosines
from tokenprune_strategies.shared.text_tower import TowerParams

_EPSILON = 1e-6
"""Added to the relevance, so that the least relevant token has some length, too."""


class CDPrunerClip(PruningStrategy[TowerParams]):
    """Before the LLM: greedy MAP of a DPP whose kernel is conditional on the question.

    Source: CDPruner (arXiv 2506.10967, section 3), and notes on its code. `cdpruner` is the form
    that needs no text tower.
    """

    name = "cdpruner_clip"
    Params = TowerParams
    stages = (PreLlm(projected=True),)
    about = About(
        summary="Keeps a diverse set of tokens, conditional on the question in CLIP's space.",
        paper="CDPruner, arXiv 2506.10967",
        licence="Written from method notes; the reference code is under Apache-2.0, none was "
        "copied.",
        ours={},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """Visual tokens and the pieces of the question in the tower's space."""
        return (Signal.TOWER_TOKENS, Signal.TOWER_PIECES)

    def text_tower(self) -> TowerChoice:
        """As the plan says."""
        return self.params.tower(self.name)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep exactly `budget.keep` tokens, in raster order."""
        if not budget.remove:
            return Reduction.none()
        pieces = tokens.signal(Signal.TOWER_PIECES)
        relevance = unlike(tokens.signal(Signal.TOWER_TOKENS), pieces)
        quality = spread_out(relevance)
        kernel = quality[:, :, None] * cosines(tokens.hidden) * quality[:, None, :]
        index = dpp_select(kernel, budget.keep).sort(dim=1).values
        return Reduction.keep(index, tokens.count, score=relevance)


def unlike(tokens: Tensor, pieces: Tensor) -> Tensor:
    """Minus the cosine of a token with the pieces of the question, their mean.

    Args:
        tokens: `[B, N, E]`.
        pieces: `[B, M, E]` of length 1; zeros for padding.

    Returns:
        `[B, N]`.
    """
    count = (pieces != 0).any(dim=-1).sum(dim=1).clamp(min=1)
    mean = pieces.sum(dim=1) / count[:, None]
    return -(normalize(tokens, dim=-1) @ mean[:, :, None])[..., 0]


def spread_out(relevance: Tensor) -> Tensor:
    """From almost 0 for the least to 1 for the most relevant token of a sample, `[B, N]`.

    Where all are equal, 1 (ours: the code divides by zero).
    """
    least, most = relevance.amin(dim=1, keepdim=True), relevance.amax(dim=1, keepdim=True)
    width = most - least
    flat = width == 0
    shifted = relevance - least + _EPSILON
    return (shifted / width.masked_fill(flat, 1)).masked_fill(flat, 1)
