"""`vispruner` against loops over the steps of its page."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.vispruner import VisPruner
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


def picture(hidden: Tensor, score: Tensor) -> Tokens:
    return make_tokens(hidden, site=SITES["pre_llm"], signals={Signal.CLS_ATTENTION: score})


def kept(tokens: Tokens, keep: int, **params: float) -> list[list[int]]:
    found = VisPruner.from_params(**params).reduce(tokens, budget(tokens, keep)).anchor
    assert found is not None
    return found.tolist()


def by_loops(
    hidden: list[list[float]], score: list[float], keep: int, important: float
) -> list[int]:
    listed = best_by_loops(score, len(score))
    chosen = listed[: int(keep * important)]
    listed = listed[len(chosen) :]
    while len(listed) > keep - len(chosen):
        even, odd = listed[0::2], listed[1::2]
        remove = min(8, len(listed) - (keep - len(chosen)), len(even))
        likeness = [max((cosine(hidden[i], hidden[j]) for j in odd), default=0.0) for i in even]
        ranked = [even[place] for place in best_by_loops(likeness, len(even))]
        listed = ranked[remove:] + odd
    return sorted(chosen + listed)


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.data())
@settings(deadline=None, max_examples=60)
def test_against_loops(seed: int, important: float, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    count = data.draw(st.integers(1, 60))
    keep = data.draw(st.integers(1, count))
    hidden = torch.randn(2, count, 5)
    score = torch.rand(2, count)
    found = kept(picture(hidden, score), keep, important=important)
    for sample in range(2):
        rows = hidden[sample].tolist(), score[sample].tolist()
        assert found[sample] == by_loops(*rows, keep, important)


@given(st.integers(0, 10**6), st.data())
@settings(deadline=None, max_examples=30)
def test_ties_go_to_the_earlier_place_of_the_list(seed: int, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    count = data.draw(st.integers(2, 40))
    keep = data.draw(st.integers(1, count))
    hidden = axis_vectors(count, 3, seed)
    score = torch.randint(3, (count,)) / 2
    found = kept(picture(hidden[None], score[None]), keep)
    assert found[0] == by_loops(hidden.tolist(), score.tolist(), keep, 0.5)


def test_an_odd_list_as_with_58_of_576() -> None:
    hidden, score = torch.randn(1, 576, 4), torch.rand(1, 576)
    (found,) = kept(picture(hidden, score), 58)
    assert len(found) == 58
    assert set(best_by_loops(score[0].tolist(), 29)) <= set(found)


def test_duplicates_leave_before_what_is_alone() -> None:
    hidden = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]])
    score = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.9]])
    # by attention 4, 3, 2, 1, 0: even places 4, 2, 0, and 4 is like no odd one
    assert kept(picture(hidden, score), 4, important=0.0) == [[0, 1, 3, 4]]
