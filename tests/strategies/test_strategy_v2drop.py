"""`v2drop` against a loop over its page."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.v2drop import V2Drop, steps

from tests.strategies.cases import SITES, best_by_loops, budget, make_tokens
from tokenprune.interface.signals import Signal
from tokenprune.plan.budget import kept


@given(st.integers(0, 10**6), st.integers(1, 20), st.data())
@settings(deadline=None, max_examples=25)
def test_against_loops(seed: int, count: int, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    keep = data.draw(st.integers(1, count))
    earlier = torch.randint(3, (2, count, 2)).float()  # few lengths, so that many are ties
    hidden = torch.randint(3, (2, count, 2)).float()
    signals = {Signal.EARLIER_STATES: earlier}
    tokens = make_tokens(hidden, site=SITES["decoder"], signals=signals)
    found = V2Drop.from_params().reduce(tokens, budget(tokens, keep)).anchor
    assert found is not None
    for sample in range(2):
        pairs = zip(hidden[sample].tolist(), earlier[sample].tolist(), strict=True)
        moved = [sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) for pair in pairs]
        want = sorted(best_by_loops([math.sqrt(square) for square in moved], keep))
        assert found[sample].tolist() == want


@pytest.mark.parametrize(("layers", "where"), [(32, [3, 17, 22]), (28, [2, 14, 19]), (2, [1])])
def test_its_steps(layers: int, where: list[int]) -> None:
    assert [step.layer for step in steps(layers)] == where


def test_the_papers_numbers() -> None:
    count, found = 576, []
    for step in steps(32):
        count = kept(step.keep, count)
        found.append(count)
    assert found == [288, 144, 1]
