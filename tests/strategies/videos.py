"""Videos that the tests of several strategies share."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.strategies.cases import SITES, make_tokens
from tokenprune.interface.tokens import Tokens

Grid = tuple[int, int, int]
GRIDS = st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 3))


def clip(grid: Grid, seed: int, width: int = 6, batch: int = 2) -> Tensor:
    """Frames that change little by little, `[B, T * h * w, width]`."""
    frames, height, columns = grid
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(batch, 1, height * columns, width, generator=generator)
    steps = torch.randn(batch, frames, height * columns, width, generator=generator)
    return (first + 0.4 * steps.cumsum(dim=1)).flatten(1, 2)


def shown(hidden: Tensor, grid: Grid) -> Tokens:
    """The tokens of a video in front of the LLM."""
    return make_tokens(hidden, site=SITES["pre_llm"], grid=grid)


def frames_of(rows: list[list[float]], grid: Grid) -> list[list[list[float]]]:
    """Rows of a video, frame by frame."""
    inside = grid[1] * grid[2]
    return [rows[begin : begin + inside] for begin in range(0, len(rows), inside)]
