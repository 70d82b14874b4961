"""HiPrune: objects and their surroundings by a middle block, the whole by a deep one."""

from __future__ import annotations

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
from tokenprune.ops import topk_indices

_CROSS = 5
"""An anchor and its four neighbours."""


class HiPruneParams(StrategyParams):
    """Parameters of `hiprune`."""

    alpha: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of the budget for anchors with their four neighbours each.",
    )
    object_block: int | None = Field(
        default=None,
        ge=0,
        description="Encoder block, from 0, whose attention anchors are chosen by; by default at "
        "three eighths of the depth, which is the paper's ninth of 24.",
    )


class HiPrune(PruningStrategy[HiPruneParams]):
    """Before the LLM: anchors and buffers by an object block, registers by the last used one.

    Source: HiPrune (arXiv 2508.00553, section 3), and notes on its code.
    """

    name = "hiprune"
    Params = HiPruneParams
    stages = (PreLlm(maps=True),)
    about = About(
        summary="Keeps what a middle block attends to, with neighbours, and what a deep one does.",
        paper="HiPrune, arXiv 2508.00553",
        licence="Written from method notes; the reference code is under the MIT licence, none was "
        "copied.",
        ours={},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """Attention received in the object block and in the last used one."""
        deep = Signal.ATTENTION_RECEIVED_FROM_ALL
        return deep.at(self._object(site.layers)), deep

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep exactly `budget.keep` tokens, in raster order."""
        middle, deep = (tokens.signal(signal) for signal in self.signals(tokens.site))
        count = min(round(budget.keep * self.params.alpha / _CROSS), budget.keep // _CROSS)
        anchors = topk_indices(middle, count)
        chosen = surroundings(tokens.index, anchors, tokens.grid)
        index = topk_indices(deep.float().masked_fill(chosen, torch.inf), budget.keep)
        return Reduction.keep(index, tokens.count, score=torch.where(chosen, middle, deep))

    def _object(self, used: int) -> int:
        if self.params.object_block is not None:
            return self.params.object_block
        return used * 3 // 8


def surroundings(index: Tensor, anchors: Tensor, grid: Grid) -> Tensor:
    """Anchors and the tokens to their left and right, above and below, `[B, N]` bool.

    In raster order, so at the end of a row the next one follows, and what lies outside the frame is
    taken for its first or last patch, both as in the code.

    Args:
        index: `[B, N]` patch of every token.
        anchors: `[B, A]` tokens.
        grid: patch grid (t, h, w).
    """
    frames, height, width = grid
    patch, inside = index.gather(1, anchors), height * width
    begin = patch // inside * inside
    step = torch.tensor([0, -1, 1, -width, width], device=index.device)
    near = (patch - begin)[..., None] + step
    near = (begin[..., None] + near.clamp(0, inside - 1)).flatten(1)
    marked = torch.zeros(index.shape[0], frames * inside, dtype=torch.bool, device=index.device)
    marked = marked.scatter(1, near, torch.ones_like(near, dtype=torch.bool))
    return marked.gather(1, index)
