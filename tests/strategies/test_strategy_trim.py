"""`trim` against loops over the steps of its page."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.trim import Trim
from torch import Tensor

from tests.strategies.cases import SITES, best_by_loops, make_tokens
from tests.strategies.loops import dot, mean
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.strategy import Budget

Rows = list[list[float]]


def answer(
    hidden: Tensor, shown: Tensor, question: Tensor, keep: int = 0, **params: Any
) -> Reduction:
    signals = {Signal.TOWER_TOKENS: shown, Signal.TOWER_QUESTION: question}
    tokens = make_tokens(hidden, site=SITES["pre_llm"], signals=signals)
    given = Budget(tokens.count, keep or tokens.count, given=bool(keep))
    return Trim.from_params(text_tower="any", **params).reduce(tokens, given)


def scores(shown: Rows, question: list[float]) -> list[float]:
    weights = [math.exp(-dot(token, question)) for token in shown]
    return [weight / sum(weights) for weight in weights]


def outliers(score: list[float]) -> int:
    low, _, high = statistics.quantiles(score, n=4, method="inclusive")
    return max(1, sum(one > high + 1.5 * (high - low) for one in score))


def by_loops(hidden: Rows, score: list[float], count: int) -> tuple[list[int], Rows]:
    """The kept tokens ascending, and the states that leave in the paper's order."""
    kept = sorted(best_by_loops(score, count))
    rest = [token for token in range(len(score)) if token not in kept]
    states = [hidden[token] for token in kept]
    return kept, [*states, mean([hidden[token] for token in rest])]


@pytest.mark.parametrize("order", ["paper", "raster"])
@given(st.integers(0, 10**6), st.integers(5, 20), st.data())
@settings(deadline=None, max_examples=30)
def test_against_loops(order: str, seed: int, count: int, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    hidden, shown = torch.randn(2, count, 6), 2 * torch.randn(2, count, 4)
    question = torch.randn(2, 4)
    keep = data.draw(st.one_of(st.just(0), st.integers(2, count - 1)))
    found = answer(hidden, shown, question, keep, order=order)
    for sample in range(2):
        score = scores(shown[sample].tolist(), question[sample].tolist())
        number = keep - 1 if keep else outliers(score)
        kept, states = by_loops(hidden[sample].tolist(), score, number)
        if order == "raster":
            rest = [token for token in range(count) if token not in kept]
            places = [*kept, max(rest, key=lambda token: score[token])]
            states = [states[n] for n in sorted(range(len(places)), key=places.__getitem__)]
        made = found.row(sample).created
        assert made is not None
        torch.testing.assert_close(made[0], torch.tensor(states), atol=1e-5, rtol=1e-4)


def test_tokens_that_are_less_like_the_question_stay() -> None:
    shown = torch.tensor([[[1.0], [-2.0], [0.0], [3.0]]])
    found = answer(torch.eye(4)[None], shown, torch.tensor([[1.0]]), 3)
    assert found.anchor is not None
    # 1 and 2 stay, the mean stands at the better one of the others
    assert found.anchor.tolist() == [[0, 1, 2]]


def test_one_token_has_no_room_for_the_mean_and_all_tokens_no_rest() -> None:
    hidden, shown, question = torch.randn(1, 5, 3), torch.randn(1, 5, 2), torch.randn(1, 2)
    alone = answer(hidden, shown, question, 1)
    assert alone.created is None
    assert alone.anchor is not None
    assert alone.anchor.shape == (1, 1)
    assert not answer(hidden, shown, question, 5).changes
