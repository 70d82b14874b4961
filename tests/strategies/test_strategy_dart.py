"""`dart` against loops over the steps of its page."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.dart import DART
from torch import Tensor

from tests.strategies.cases import (
    SITES,
    axis_vectors,
    best_by_loops,
    budget,
    cosine,
    make_tokens,
)
from tokenprune.interface.signals import Signal
from tokenprune.interface.tokens import Tokens

PLACE = torch.tensor([[0, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, -1, -1, -1], [0, -1, -1, -1, -1, -1, -1]])


def picture(states: Tensor, length: Tensor, text: Tensor, text_length: Tensor) -> Tokens:
    signals = {
        Signal.OUTPUT_STATES: states,
        Signal.KEY_LENGTH: length,
        Signal.TEXT_OUTPUT_STATES: text,
        Signal.TEXT_KEY_LENGTH: text_length,
        Signal.TEXT_PLACE: PLACE,
    }
    hidden = torch.randn(*length.shape, 2)
    return make_tokens(hidden, site=SITES["decoder"], signals=signals)


def kept(tokens: Tokens, keep: int, **params: Any) -> list[list[int]]:
    found = DART.from_params(**params).reduce(tokens, budget(tokens, keep)).anchor
    assert found is not None
    return found.tolist()


def by_loops(
    states: list[list[float]],
    length: list[float],
    words: list[list[float]],
    word_length: list[float],
    keep: int,
    most: tuple[int, int] = (4, 4),
) -> list[int]:
    chosen = best_by_loops(length, min(most[0], keep))
    guides = [states[token] for token in chosen]
    guides += [words[word] for word in best_by_loops(word_length, most[1])]
    share, more = divmod(keep - len(chosen), len(guides))
    for number, guide in enumerate(guides):
        free = [token for token in range(len(states)) if token not in chosen]
        unlike = [-cosine(guide, states[token]) for token in free]
        count = share + (number < more)
        chosen += [free[place] for place in best_by_loops(unlike, count)]
    return sorted(chosen)


def question(values: Tensor, sample: int) -> list[Any]:
    return values[sample][PLACE[sample] == 1].tolist()


@given(st.integers(0, 10**6), st.booleans(), st.data())
@settings(deadline=None, max_examples=60)
def test_against_loops(seed: int, alike: bool, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    count = data.draw(st.integers(1, 40))
    keep = data.draw(st.integers(1, count))
    most = data.draw(st.sampled_from([(4, 4), (1, 0), (6, 2)]))
    states = torch.stack([axis_vectors(count, 3, seed + i) for i in range(3)])
    states = states if alike else torch.randn(3, count, 3)
    length = torch.randint(5, (3, count)).float() if alike else torch.rand(3, count)
    text, text_length = torch.randn(3, 7, 3), torch.rand(3, 7)
    text = torch.stack([axis_vectors(7, 3, seed + 9 + i) for i in range(3)]) if alike else text
    tokens = picture(states, length, text, text_length)
    found = kept(tokens, keep, pivots=most[0], text_pivots=most[1])
    for sample in range(3):
        words, lengths = question(text, sample), question(text_length, sample)
        rows = states[sample].tolist(), length[sample].tolist()
        assert found[sample] == by_loops(*rows, words, lengths, keep, most)


@pytest.mark.parametrize("keep", [1, 3, 12, 20])
def test_on_the_states_themselves(keep: int) -> None:
    torch.manual_seed(keep)
    hidden, words = torch.randn(3, 24, 4), torch.randn(3, 7, 4)
    signals = {Signal.TEXT_STATES: words, Signal.TEXT_PLACE: PLACE}
    tokens = make_tokens(hidden, site=SITES["decoder"], signals=signals)
    strategy = DART.from_params(measure="states")
    assert set(strategy.signals(SITES["decoder"])) == set(signals)
    found = kept(tokens, keep, measure="states")
    for sample in range(3):
        length = [sum(abs(v) for v in one) for one in hidden[sample].tolist()]
        asked = question(words, sample)
        word_length = [sum(abs(v) for v in one) for one in asked]
        assert found[sample] == by_loops(hidden[sample].tolist(), length, asked, word_length, keep)


def test_the_papers_budget_gives_every_pivot_the_same() -> None:
    # 4 + 8 * 16: what the code keeps for a budget of 128
    torch.manual_seed(0)
    states, length = torch.randn(3, 576, 8), torch.rand(3, 576)
    text, text_length = torch.randn(3, 7, 8), torch.rand(3, 7)
    found = kept(picture(states, length, text, text_length), 132)
    rows = states[0].tolist(), length[0].tolist(), question(text, 0), question(text_length, 0)
    assert found[0] == by_loops(*rows, 132)
