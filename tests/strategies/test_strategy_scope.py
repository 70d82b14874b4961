"""`scope` against loops over the steps of its page."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.scope import Scope
from torch import Tensor

from tests.strategies.cases import SITES, axis_vectors, budget, cosine, make_tokens
from tokenprune.interface.signals import Signal

PRE_LLM = SITES["pre_llm"]


def kept(hidden: Tensor, score: Tensor, keep: int, alpha: float) -> list[list[int]]:
    tokens = make_tokens(hidden, site=PRE_LLM, signals={Signal.CLS_ATTENTION: score})
    found = Scope.from_params(alpha=alpha).reduce(tokens, budget(tokens, keep)).anchor
    assert found is not None
    return found.tolist()


def by_loops(hidden: list[list[float]], score: list[float], keep: int, alpha: float) -> list[int]:
    every = range(len(hidden))
    alike = [[cosine(hidden[i], hidden[j]) for j in every] for i in every]
    covered, picks = [0.0] * len(hidden), list[int]()
    for _ in range(keep):
        gains = {
            j: score[j] ** alpha * sum(max(0.0, alike[i][j] - covered[i]) for i in every)
            for j in every
            if j not in picks
        }
        pick = max(gains, key=lambda j: (gains[j], -j))
        picks.append(pick)
        covered = [max(old, alike[i][pick]) for i, old in enumerate(covered)]
    return sorted(picks)


@given(st.integers(0, 10**6), st.sampled_from([0.5, 1.0, 2.0]), st.data())
@settings(deadline=None, max_examples=30)
def test_against_loops(seed: int, alpha: float, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    count = data.draw(st.integers(1, 20))
    # Of full budgets the last gains are nothing but rounding.
    keep = data.draw(st.integers(1, max(1, count // 2)))
    hidden, score = torch.randn(2, count, 8), torch.rand(2, count) + 0.1
    found = kept(hidden, score, keep, alpha)
    for sample in range(2):
        rows = hidden[sample].double().tolist(), score[sample].double().tolist()
        assert found[sample] == by_loops(*rows, keep, alpha)


@given(st.integers(0, 10**6), st.sampled_from([0.0, 1.0]), st.data())
@settings(deadline=None, max_examples=30)
def test_ties_go_to_the_lower_index(seed: int, alpha: float, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    count = data.draw(st.integers(2, 24))
    keep = data.draw(st.integers(1, count))
    hidden, score = axis_vectors(count, 3, seed), torch.randint(1, 3, (count,)) / 2
    found = kept(hidden[None], score[None], keep, alpha)
    assert found[0] == by_loops(hidden.tolist(), score.tolist(), keep, alpha)
