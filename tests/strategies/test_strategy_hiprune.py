"""`hiprune` against loops over the steps of its page."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.hiprune import HiPrune
from torch import Tensor

from tests.strategies.cases import SITES, best_by_loops, budget, make_tokens
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site

RECEIVED = Signal.ATTENTION_RECEIVED_FROM_ALL
Grid = tuple[int, int, int]


def kept(middle: Tensor, deep: Tensor, grid: Grid, keep: int, alpha: float) -> list[list[int]]:
    signals = {RECEIVED.at(4): middle, RECEIVED: deep}
    hidden = torch.randn(*middle.shape, 4)
    tokens = make_tokens(hidden, site=SITES["pre_llm"], signals=signals, grid=grid)
    found = HiPrune.from_params(alpha=alpha).reduce(tokens, budget(tokens, keep)).anchor
    assert found is not None
    return found.tolist()


def by_loops(
    middle: list[float], deep: list[float], grid: Grid, keep: int, alpha: float
) -> list[int]:
    _, height, width = grid
    inside = height * width
    chosen: set[int] = set()
    for anchor in best_by_loops(middle, min(round(keep * alpha / 5), keep // 5)):
        begin = anchor // inside * inside
        near = [anchor, anchor - 1, anchor + 1, anchor - width, anchor + width]
        chosen |= {min(max(one, begin), begin + inside - 1) for one in near}
    rest = [token for token in best_by_loops(deep, len(deep)) if token not in chosen]
    return sorted([*chosen, *rest[: keep - len(chosen)]])


@pytest.mark.parametrize("grid", [(1, 6, 5), (3, 2, 5), (1, 1, 30)])
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.1, 0.4, 1.0]), st.integers(1, 30))
@settings(deadline=None, max_examples=25)
def test_against_loops(grid: Grid, seed: int, alpha: float, keep: int) -> None:
    torch.manual_seed(seed)
    levels = 4 if seed % 2 else 10**6  # with few levels, many scores are ties
    middle, deep = (torch.randint(levels, (2, 30)) / levels for _ in range(2))
    found = kept(middle, deep, grid, keep, alpha)
    for sample in range(2):
        rows = middle[sample].tolist(), deep[sample].tolist()
        assert found[sample] == by_loops(*rows, grid, keep, alpha)


@pytest.mark.parametrize(("keep", "anchors"), [(192, 4), (128, 3), (64, 1)])
def test_the_papers_numbers_of_anchors(keep: int, anchors: int) -> None:
    middle, deep = torch.zeros(1, 576), torch.zeros(1, 576)
    middle[0, [200, 210, 300, 310]] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    deep[0, 576 - keep :] = 1
    found = kept(middle, deep, (1, 24, 24), keep, 0.1)[0]
    assert [one in found for one in (200, 210, 300, 310)] == [n < anchors for n in range(4)]


@pytest.mark.parametrize(("used", "block"), [(23, 8), (12, 4), (1, 0)])
def test_the_object_block_is_at_three_eighths(used: int, block: int) -> None:
    asked = HiPrune.from_params().signals(Site("pre_llm", used, used))
    assert asked == (RECEIVED.at(block), RECEIVED)


def test_tokens_whose_neighbours_left_earlier() -> None:
    middle = torch.tensor([[0.0, 0, 1, 0, 0, 0, 0]])
    signals = {RECEIVED.at(4): middle, RECEIVED: torch.arange(7.0)[None]}
    index = torch.tensor([[0, 2, 4, 5, 6, 7, 8]])
    tokens = make_tokens(
        torch.randn(1, 7, 3), site=SITES["pre_llm"], signals=signals, index=index, grid=(1, 3, 3)
    )
    found = HiPrune.from_params(alpha=1.0).reduce(tokens, budget(tokens, 5)).anchor
    # of the cross around patch 4 there are 4, 5 and 7; then the best of the deep block, 8 and 6
    assert found is not None
    assert found.tolist() == [[2, 3, 4, 5, 6]]
