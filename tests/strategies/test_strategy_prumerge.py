"""`prumerge` against loops over the steps of its page."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.prumerge import PruMerge
from torch import Tensor

from tests.strategies.cases import SITES, best_by_loops, cosine, make_tokens
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.strategy import Budget

PRE_LLM = SITES["pre_llm"]
ASKED = (Signal.CLS_ATTENTION_JOINED.at(12), Signal.KEYS_JOINED.at(12))
Rows = list[list[float]]


def answer(hidden: Tensor, score: Tensor, keys: Tensor, keep: int = 0, **params: Any) -> Reduction:
    signals = dict(zip(ASKED, (score, keys), strict=True))
    tokens = make_tokens(hidden, site=PRE_LLM, signals=signals)
    budget = Budget(tokens.count, keep or tokens.count, given=bool(keep))
    return PruMerge.from_params(**params).reduce(tokens, budget)


def outliers(score: list[float]) -> int:
    low, _, high = statistics.quantiles(score, n=4, method="inclusive")
    return max(1, sum(one > high + 1.5 * (high - low) for one in score))


def chosen(score: list[float], keep: int, plus: bool) -> list[int]:
    count, found = len(score), outliers(score)
    if not keep:
        best = best_by_loops(score, found)
        step = max(1, int(int(count / found) / 3))
        grid = [token for token in range(0, count - 1, step) if token not in best]
        return best + (grid if plus else [])
    wanted = max(1, keep - 1)
    best = best_by_loops(score, min(found, wanted))
    others = [token for token in range(count) if token not in best]
    missing = wanted - len(best)
    return best + [others[int((n + 0.5) * len(others) / missing)] for n in range(missing)]


def states(hidden: Rows, score: list[float], keys: Rows, kept: list[int], near: int) -> Rows:
    made = []
    for token in kept:
        others = [other for other in range(len(hidden)) if other != token]
        likeness = [cosine(keys[token], keys[other]) for other in others]
        joined = [others[n] for n in best_by_loops(likeness, min(near, len(others)))]
        made.append(summed(hidden, score, joined, hidden[token]))
    return made


def summed(hidden: Rows, score: list[float], tokens: list[int], start: list[float]) -> list[float]:
    total = start
    for token in tokens:
        total = [a + score[token] * b for a, b in zip(total, hidden[token], strict=True)]
    return total


@pytest.mark.parametrize("order", ["raster", "paper"])
@pytest.mark.parametrize("plus", [True, False])
@given(st.integers(0, 10**6), st.integers(0, 1), st.data())
@settings(deadline=None, max_examples=20)
def test_against_loops(
    order: str, plus: bool, seed: int, given_budget: int, data: st.DataObject
) -> None:
    torch.manual_seed(seed)
    count = data.draw(st.integers(3, 40))
    keep = data.draw(st.integers(1, count - 1)) if given_budget else 0
    near = data.draw(st.sampled_from([0, 3, 32]))
    hidden, keys = torch.randn(2, count, 4), torch.randn(2, count, 6)
    score = torch.rand(2, count) ** 8
    found = answer(hidden, score, keys, keep, order=order, plus=plus, neighbours=near)
    for sample in range(2):
        rows = hidden[sample].tolist(), score[sample].tolist(), keys[sample].tolist()
        kept = chosen(rows[1], keep, plus)
        made = states(*rows, kept, near)
        rest = [token for token in range(count) if token not in kept]
        places = list(kept)
        if rest and keep != 1:
            made.append(summed(rows[0], rows[1], rest, [0.0] * 4))
            places.append(rest[best_by_loops([rows[1][token] for token in rest], 1)[0]])
        part = found.samples[sample]
        assert part.anchor is not None
        assert part.slot is not None
        got = part.apply(hidden[sample : sample + 1], torch.ones(1, count))[0]
        ranked = sorted(range(len(places)), key=lambda n: places[n])
        if order == "paper":
            ranked = [*range(len(places))]
            assert part.anchor[0].tolist() == ranked
        else:
            assert part.anchor[0].tolist() == sorted(places)
        torch.testing.assert_close(got, torch.tensor([made[n] for n in ranked]))
        slots = {token: ranked.index(n) for n, token in enumerate(kept)}
        last = ranked.index(len(kept)) if len(places) > len(kept) else -1
        assert part.slot[0].tolist() == [slots.get(token, last) for token in range(count)]
        if keep:
            assert len(places) == keep


def test_few_outliers_make_a_coarse_grid_and_no_last_token() -> None:
    score = torch.zeros(1, 576)
    score[0, [7, 100]] = torch.tensor([0.3, 0.5])
    found = answer(torch.randn(1, 576, 3), score, torch.randn(1, 576, 3), order="paper")
    # 576 / 2 / 3 = 96: six tokens of the grid, the outliers, and one of all others
    assert found.samples[0].length == 9
    assert found.samples[0].slot is not None
    assert int(found.samples[0].slot[0, 575]) == 8


def test_the_block_is_the_one_behind_the_features_or_the_last_used() -> None:
    assert PruMerge.from_params().signals(PRE_LLM) == ASKED
    plain = (Signal.ATTENTION_RECEIVED_JOINED, Signal.KEYS_JOINED)
    assert PruMerge.from_params(block="last", score="received").signals(PRE_LLM) == plain
