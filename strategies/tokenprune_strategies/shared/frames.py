"""Tokens of videos laid out by frame and location."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.errors import BudgetError
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens


def by_frame(values: Tensor, tokens: Tokens) -> Tensor:
    """Values per token on the whole grid, zeros where no token is left.

    Args:
        values: `[B, N, ...]`.
        tokens: what arrived; their grid is (t, h, w).

    Returns:
        `[B, t, h * w, ...]`.
    """
    frames, height, width = tokens.grid
    room = values.new_zeros(values.shape[0], frames * height * width, *values.shape[2:])
    place = tokens.index.view(*tokens.index.shape, *[1] * (values.dim() - 2)).expand_as(values)
    return torch.unflatten(room.scatter(1, place, values), 1, (frames, height * width))


def frame_sizes(tokens: Tokens) -> Tensor:
    """How many tokens every frame has, `[B, t]` int64."""
    return by_frame(torch.ones_like(tokens.index), tokens).sum(dim=2)


def require_frames(site: Site, budget: Budget, grid: Grid) -> None:
    """Refuse a budget without a token for every frame.

    Raises:
        BudgetError: it carries the least number.
    """
    if budget.keep < grid[0]:
        raise BudgetError(
            f"{grid[0]} frames have a budget of their own each, and {budget.keep} are to stay.",
            where=str(site),
            remedy=f"Keep at least {grid[0]}.",
            nearest=grid[0],
        )
