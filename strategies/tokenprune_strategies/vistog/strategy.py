"""The strategy `vistog`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenprune.errors import BudgetError
from tokenprune.interface.about import About
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens
from tokenprune.interface.trainable import ModelShape
from tokenprune_strategies.shared.learned import LearnedStrategy
from tokenprune_strategies.vistog.grouping import SemanticGrouping, gumbel
from tokenprune_strategies.vistog.params import OURS, VisToGParams


class VisToG(LearnedStrategy[VisToGParams, SemanticGrouping]):
    """Semantic tokens read the image in every encoder block, then gather the patches in groups.

    The image never reads them (isolated attention), so its own states stay those of the plain
    encoder. Needs training; the paper's second stage trains projector and LLM too. In training mode
    the assignment is a straight-through Gumbel softmax, otherwise a hard, deterministic choice.
    Source: VisToG (arXiv 2411.17773); the grouping layer's concrete form is after GroupViT
    (arXiv 2202.11094).
    """

    name = "vistog"
    Params = VisToGParams
    stages = (PreLlm(),)
    about = About(
        summary="Learned: semantic tokens group the patches; needs a checkpoint.",
        paper="VisToG: Efficient MLLMs via Visual Token Grouping, arXiv 2411.17773",
        licence="Written from method notes; no official code was found, and GroupViT's was not "
        "used.",
        ours=OURS,
    )

    def __init__(self, params: VisToGParams) -> None:
        super().__init__(params)
        self._generator: torch.Generator | None = None

    @classmethod
    def build(cls, shape: VisToGParams) -> SemanticGrouping:
        """Semantic tokens and grouping layer."""
        assert shape.dim is not None
        return SemanticGrouping(shape.groups, shape.dim, tau=shape.tau, eps=shape.eps)

    @classmethod
    def untrained(cls, shape: ModelShape, keep: int | None) -> Mapping[str, Any]:
        """As many groups as tokens to keep, as wide as the encoder."""
        groups = {} if keep is None else {"groups": keep}
        return {"init_seed": 0, "dim": shape.encoder_width, **groups}

    @property
    def groups(self) -> int:
        """Number of semantic tokens G."""
        return self.module.semantic.shape[0]

    def check(self, site: Site, budget: Budget, grid: Grid) -> None:
        """Every group becomes one token, so exactly G are kept.

        Raises:
            BudgetError: the budget isn't G.
        """
        if budget.keep != self.groups:
            raise BudgetError(
                f"vistog makes one token of each of its groups: {self.groups}, not {budget.keep}.",
                where=str(site),
                remedy=f"Use keep: {self.groups}, or weights with groups: {budget.keep}.",
                nearest=self.groups,
            )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The semantic tokens after the encoder."""
        return (Signal.COMPANIONS,)

    def companions(self) -> Tensor:
        """The semantic tokens Z_0, `[G, D]`; the parameter itself, so gradients reach it."""
        return self.module.semantic

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Replace all tokens by the G group tokens, in slot order."""
        grouping = self.module(tokens.signal(Signal.COMPANIONS), tokens.hidden, self._noise(tokens))
        return Reduction.replace(grouping.created, grouping.group)

    def reseed(self, seed: int) -> None:
        """Start the Gumbel noise anew."""
        self._generator = torch.Generator().manual_seed(seed)

    def _noise(self, tokens: Tokens) -> Tensor | None:
        if not self.module.training:
            return None
        if self._generator is None:
            self._generator = torch.Generator().manual_seed(tokens.seed)
        shape = (tokens.hidden.shape[0], self.groups, tokens.count)
        return gumbel(shape, self._generator).to(tokens.hidden.device)
