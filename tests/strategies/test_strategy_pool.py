"""`pool` against loops over windows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.pool import Pool, fitting

from tests.strategies.cases import SITES, make_tokens
from tests.strategies.videos import Grid
from tokenprune.errors import BudgetError
from tokenprune.interface.strategy import Budget

GRIDS = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))


@given(GRIDS, st.integers(1, 4), st.integers(0, 10**6), st.data())
@settings(deadline=None, max_examples=40)
def test_against_loops(grid: Grid, side: int, seed: int, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    patches = grid[0] * grid[1] * grid[2]
    count = data.draw(st.integers(1, patches))
    index = torch.stack([torch.randperm(patches)[:count].sort().values for _ in range(2)])
    hidden, size = torch.randn(2, count, 4), torch.randint(1, 4, (2, count)).float()
    tokens = make_tokens(hidden, site=SITES["pre_llm"], index=index, size=size, grid=grid)
    answer = Pool.from_params(window=side).reduce(tokens, Budget(count, count, given=False))
    for sample in range(2):
        found: dict[tuple[int, int, int], list[int]] = {}
        for token, (frame, row, column) in enumerate(tokens.position[sample].tolist()):
            found.setdefault((frame, row // side, column // side), []).append(token)
        groups = sorted(found.values())
        part = answer.samples[sample]
        assert part.anchor is not None
        assert part.anchor[0].tolist() == [group[0] for group in groups]
        states = part.apply(hidden[sample : sample + 1], size[sample : sample + 1])[0]
        for state, group in zip(states, groups, strict=True):
            weight = size[sample, group][:, None]
            want = (hidden[sample, group] * weight).sum(dim=0) / weight.sum()
            torch.testing.assert_close(state, want)


def test_a_budget_makes_windows_larger() -> None:
    assert fitting((1, 24, 24), 2, 576) == 2
    assert fitting((1, 24, 24), 2, 144) == 2
    assert fitting((1, 24, 24), 2, 143) == 3
    assert fitting((4, 6, 6), 2, 4) == 6


def test_a_budget_below_a_token_a_frame_is_refused() -> None:
    with pytest.raises(BudgetError) as caught:
        Pool.from_params().check(SITES["pre_llm"], Budget(36, 3), (4, 3, 3))
    assert caught.value.nearest == 4
