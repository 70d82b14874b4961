"""Average pooling of windows, a baseline."""

from __future__ import annotations

from math import ceil

import torch
from pydantic import Field
from torch import Tensor

from tokenprune.errors import BudgetError
from tokenprune.interface.about import About
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune_strategies.shared.windows import windows_of


class PoolParams(StrategyParams):
    """Parameters of `pool`."""

    window: int = Field(
        default=2,
        ge=1,
        description="Side of the windows, in patches; larger where the plan's budget needs it.",
    )


class Pool(PruningStrategy[PoolParams]):
    """Before the LLM, on projected tokens: the mean of every window of every frame.

    A baseline of UniPruneBench's; means are weighted by the patches that tokens stand for.
    """

    name = "pool"
    Params = PoolParams
    stages = (PreLlm(projected=True, maps=True),)
    length = "own"
    about = About(
        summary="Baseline: averages windows of patches.",
        paper="-",
        licence="Ours.",
        ours={"window": "the 2 x 2 that UniPruneBench reports"},
    )

    def check(self, site: Site, budget: Budget, grid: Grid) -> None:
        """Refuse a budget that one window a frame exceeds.

        Raises:
            BudgetError: it carries the least number.
        """
        if budget.given and budget.keep < grid[0]:
            raise BudgetError(
                f"{grid[0]} frames are at least as many windows.",
                where=str(site),
                remedy=f"Keep at least {grid[0]}.",
                nearest=grid[0],
            )

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Merge the tokens of every window into the first of them."""
        side = self.params.window
        if budget.given:
            side = fitting(tokens.grid, side, budget.keep)
        window, _ = windows_of(tokens.position, tokens.grid, side)
        parts = zip(window, tokens.size, strict=True)
        return Reduction.ragged([averaged(*part) for part in parts])


def fitting(grid: Grid, side: int, most: int) -> int:
    """The least side, from `side` on, with at most so many windows; that of a frame at the most."""
    frames, height, width = grid
    while side < max(height, width) and frames * ceil(height / side) * ceil(width / side) > most:
        side += 1
    return side


def averaged(window: Tensor, size: Tensor) -> Reduction:
    """Windows `[N]` and sizes `[N]` of one sample as a reduction of a batch of one."""
    numbers, slot = torch.unique(window, return_inverse=True)
    every = torch.arange(len(window), device=window.device)
    first = slot.new_full((len(numbers),), len(window)).scatter_reduce(0, slot, every, "amin")
    anchor, order = first.sort()
    rank = torch.empty_like(order).scatter(0, order, every[: len(order)])
    return Reduction(anchor=anchor[None], slot=rank[slot][None], weight=size[None])
