"""`fastervlm` against a loop over the class token's row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.fastervlm import FasterVLM

from tests.strategies.cases import SITES, best_by_loops, budget, make_tokens
from tokenprune.interface.signals import Signal

PRE_LLM = SITES["pre_llm"]
ROWS = {"cls": Signal.CLS_ATTENTION, "received": Signal.ATTENTION_RECEIVED}


@pytest.mark.parametrize("score", ROWS)
@given(st.integers(0, 10**6), st.data())
@settings(deadline=None, max_examples=25)
def test_the_best_of_the_row_that_is_asked_for(score: str, seed: int, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    count = data.draw(st.integers(1, 24))
    keep = data.draw(st.integers(1, count))
    levels = data.draw(st.sampled_from([3, 1000]))  # with few levels, most scores are ties
    rows = {signal: torch.randint(levels, (3, count)) / levels for signal in ROWS.values()}
    tokens = make_tokens(torch.randn(3, count, 4), site=PRE_LLM, signals=rows)
    strategy = FasterVLM.from_params(score=score)
    assert strategy.signals(PRE_LLM) == (ROWS[score],)
    found = strategy.reduce(tokens, budget(tokens, keep)).anchor
    assert found is not None
    for sample, row in enumerate(rows[ROWS[score]].tolist()):
        assert found[sample].tolist() == sorted(best_by_loops(row, keep))
