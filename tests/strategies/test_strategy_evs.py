"""`evs` against loops over the steps of its page."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.evs import EVS

from tests.strategies.cases import SITES, best_by_loops, budget, cosine, make_tokens
from tests.strategies.videos import GRIDS, Grid, clip, frames_of, shown
from tokenprune.interface.tokens import Tokens


def kept(tokens: Tokens, keep: int) -> list[list[int]]:
    found = EVS.from_params().reduce(tokens, budget(tokens, keep)).anchor
    assert found is not None
    return found.tolist()


def by_loops(rows: list[list[float]], grid: Grid, keep: int) -> list[int]:
    frames = frames_of(rows, grid)
    score = [255.0] * len(frames[0])
    for before, now in itertools.pairwise(frames):
        score += [1 - cosine(a, b) for a, b in zip(before, now, strict=True)]
    return sorted(best_by_loops(score, keep))


@given(GRIDS, st.integers(0, 10**6), st.data())
@settings(deadline=None, max_examples=40)
def test_against_loops(grid: Grid, seed: int, data: st.DataObject) -> None:
    frames, height, width = grid
    keep = data.draw(st.integers(height * width, frames * height * width))
    hidden = clip(grid, seed)
    found = kept(shown(hidden, grid), keep)
    for sample in range(2):
        assert found[sample] == by_loops(hidden[sample].tolist(), grid, keep)


def test_a_still_video_keeps_its_first_frame() -> None:
    hidden = torch.eye(4).expand(1, 3, -1, -1).flatten(1, 2)
    assert kept(shown(hidden, (3, 2, 2)), 4) == [[0, 1, 2, 3]]
    assert kept(shown(hidden, (3, 2, 2)), 6) == [[0, 1, 2, 3, 4, 5]]


def test_a_budget_below_a_frame_spreads_over_it() -> None:
    tokens = shown(torch.randn(1, 18, 5), (2, 3, 3))
    assert kept(tokens, 3) == [[2, 5, 8]]
    assert kept(tokens, 9) == [[*range(9)]]


def test_what_left_earlier_is_like_nothing() -> None:
    # two frames of two patches; patch 0 left, so nothing says that patch 2 has not changed
    hidden = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.2]]])
    index = torch.tensor([[1, 2, 3]])
    tokens = make_tokens(hidden, site=SITES["pre_llm"], index=index, grid=(2, 1, 2))
    assert kept(tokens, 2) == [[0, 1]]
