"""`dycoke` against loops over the steps of its page."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.dycoke import DyCoke

from tests.strategies.cases import best_by_loops, cosine
from tests.strategies.videos import GRIDS, Grid, clip, frames_of, shown
from tokenprune.interface.strategy import Budget


def kept(
    hidden: torch.Tensor, grid: Grid, ratio: float, most: int | None = None
) -> list[list[int]]:
    tokens = shown(hidden, grid)
    budget = Budget(tokens.count, most or tokens.count, given=most is not None)
    mask = DyCoke.from_params(ratio=ratio).reduce(tokens, budget).mask
    assert mask is not None
    return [row.nonzero()[:, 0].tolist() for row in mask]


def by_loops(rows: list[list[float]], grid: Grid, ratio: float) -> list[int]:
    frames = frames_of(rows, grid)
    inside = len(frames[0])
    left = [*range(inside)]
    for number in range(1, len(frames)):
        first = number * inside
        if number % 4 == 0:
            left += range(first, first + inside)
            continue
        before = frames[number - (2 if number % 4 == 2 else 1)]
        unlike = [-cosine(a, b) for a, b in zip(frames[number], before, strict=True)]
        left += [first + n for n in best_by_loops(unlike, int((1 - ratio) * inside + 1e-9))]
    return sorted(left)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.7])
@given(GRIDS, st.integers(0, 10**6))
@settings(deadline=None, max_examples=25)
def test_against_loops(ratio: float, grid: Grid, seed: int) -> None:
    hidden = clip(grid, seed)
    found = kept(hidden, grid, ratio)
    for sample in range(2):
        assert found[sample] == by_loops(hidden[sample].tolist(), grid, ratio)


def test_a_picture_stays_whole() -> None:
    assert kept(torch.randn(1, 9, 4), (1, 3, 3), 0.7) == [[*range(9)]]


def test_under_a_ceiling_what_repeats_most_leaves_too() -> None:
    hidden, grid = clip((4, 2, 2), 5, batch=1), (4, 2, 2)
    free, bound = kept(hidden, grid, 0.5)[0], kept(hidden, grid, 0.5, most=7)[0]
    assert len(free) == 10
    assert len(bound) == 7
    assert set(range(4)) <= set(bound) < set(free)
