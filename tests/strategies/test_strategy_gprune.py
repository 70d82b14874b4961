"""`gprune` against loops over the steps of its page."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.gprune import GPrune

from tests.strategies.cases import SITES, cosine, make_tokens


def by_loops(hidden: list[list[float]], threshold: float, rounds: int) -> list[float]:
    every = range(len(hidden))
    alike = [[cosine(hidden[i], hidden[j]) for j in every] for i in every]
    passing, degree = [], []
    for row in alike:
        logits = [a / 0.03 if a >= threshold and a else -5000.0 for a in row]
        power = [math.exp(logit - max(logits)) for logit in logits]
        passing.append([p / sum(power) for p in power])
        degree.append(max(1, sum(logit != -5000 for logit in logits)))
    matrix = passing
    for _ in range(rounds - 1):
        matrix = [[sum(matrix[i][k] * passing[k][j] for k in every) for j in every] for i in every]
    length = [math.hypot(*row) for row in hidden]
    return [sum(length[i] * matrix[i][j] for i in every) / degree[j] for j in every]


@given(st.integers(0, 10**6), st.integers(1, 14), st.sampled_from([0.0, 0.5]))
@settings(deadline=None, max_examples=25)
def test_against_loops(seed: int, count: int, threshold: float) -> None:
    torch.manual_seed(seed)
    hidden = torch.randn(2, count, 3)
    hidden[:, count // 2] = 0  # joined to nobody
    tokens = make_tokens(hidden, site=SITES["pre_llm"])
    for rounds in (1, 5):
        found = GPrune.from_params(threshold=threshold, rounds=rounds).score(tokens)
        for sample in range(2):
            want = by_loops(hidden[sample].double().tolist(), threshold, rounds)
            torch.testing.assert_close(found[sample], torch.tensor(want), rtol=2e-3, atol=1e-5)
