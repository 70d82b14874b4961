"""`pyramiddrop`: its layers and shares, and the row it goes by."""

from __future__ import annotations

import pytest
import torch
from tokenprune_strategies.pyramiddrop import PyramidDrop, quarters

from tests.strategies.cases import SITES, best_by_loops, budget, make_tokens
from tokenprune.interface.signals import Signal
from tokenprune.plan.budget import decoder_keeps

DECODER = SITES["decoder"]


@pytest.mark.parametrize("keep", [1, 5, 11, 12])
def test_the_best_of_the_row_of_the_layer_ahead(keep: int) -> None:
    row = torch.randint(6, (3, 12)) / 6
    signals = {Signal.AHEAD_ATTENTION: row}
    tokens = make_tokens(torch.randn(3, 12, 4), site=DECODER, signals=signals)
    strategy = PyramidDrop.from_params()
    assert strategy.signals(DECODER) == (Signal.AHEAD_ATTENTION,)
    found = strategy.reduce(tokens, budget(tokens, keep)).anchor
    assert found is not None
    want = [sorted(best_by_loops(sample, keep)) for sample in row.tolist()]
    assert found.tolist() == want


@pytest.mark.parametrize(
    ("layers", "at"), [(32, [8, 16, 24]), (28, [7, 14, 21]), (4, [1, 2, 3]), (2, [0, 1])]
)
def test_layers_of_other_depths(layers: int, at: list[int]) -> None:
    assert [step.layer for step in quarters(layers)] == at


@pytest.mark.parametrize("count", [576, 577, 2880, 41])
def test_shares_are_the_papers_of_what_entered_the_llm(count: int) -> None:
    steps = quarters(32)
    found = decoder_keeps([s.keep for s in steps], [s.layer for s in steps], count, 32)
    assert found == (int(count * 0.5), int(count * 0.25), int(count * 0.125))
