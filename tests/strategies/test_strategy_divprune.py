"""`divprune` against loops over the max-min rule."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.divprune import DivPrune
from torch import Tensor

from tests.strategies.cases import SITES, axis_vectors, budget, cosine, make_tokens


def kept(hidden: Tensor, keep: int) -> list[list[int]]:
    tokens = make_tokens(hidden, site=SITES["pre_llm"])
    found = DivPrune.from_params().reduce(tokens, budget(tokens, keep)).anchor
    assert found is not None
    return found.tolist()


def clear(hidden: list[list[float]]) -> bool:
    """Whether one token is farther from its nearest other than any: two may be each other's.

    The products of a pair differ in their last bit by who stands first, and the tie is gone.
    """
    near = [
        min((1 - cosine(a, b) for j, b in enumerate(hidden) if j != i), default=0.0)
        for i, a in enumerate(hidden)
    ]
    last = sorted(near)[-2:]
    return len(last) < 2 or last[1] - last[0] > 1e-6


def by_loops(hidden: list[list[float]], keep: int) -> list[int]:
    everyone = range(len(hidden))
    away = [[1 - cosine(a, b) for b in hidden] for a in hidden]
    chosen: list[int] = []
    while len(chosen) < keep:
        best, most = -1, float("-inf")
        for j in everyone:
            if j in chosen:
                continue
            others = chosen or [i for i in everyone if i != j]
            nearest = min((away[i][j] for i in others), default=float("inf"))
            if nearest > most:
                best, most = j, nearest
        chosen.append(best)
    return sorted(chosen)


@given(st.integers(0, 10**6), st.data())
@settings(deadline=None, max_examples=40)
def test_against_loops(seed: int, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    count = data.draw(st.integers(1, 24))
    keep = data.draw(st.integers(1, count))
    hidden = torch.randn(3, count, 5)
    found = kept(hidden, keep)
    for sample in range(3):
        alone = hidden[sample].tolist()
        if clear(alone):
            assert found[sample] == by_loops(alone, keep)


@given(st.integers(0, 10**6), st.data())
@settings(deadline=None, max_examples=40)
def test_ties_go_to_the_lower_index_and_no_pick_repeats(seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 24))
    keep = data.draw(st.integers(1, count))
    hidden = axis_vectors(count, 3, seed)  # many duplicates: a distance of 0 is all that is left
    assert kept(hidden[None], keep) == [by_loops(hidden.tolist(), keep)]


def test_one_of_every_group_before_a_second_of_any() -> None:
    groups = torch.eye(4).repeat_interleave(3, dim=0) + 0.01 * torch.randn(12, 4)
    (found,) = kept(groups[None], 4)
    assert [token // 3 for token in found] == [0, 1, 2, 3]
