"""`otprune` against a loop over log determinants."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.otprune import OTPrune

from tests.strategies.cases import SITES, budget, make_tokens
from tests.strategies.loops import dot


def kernel(hidden: list[list[float]], weight: float) -> list[list[float]]:
    channels = range(len(hidden[0]))
    length = [math.hypot(*(row[c] for row in hidden)) for c in channels]
    scaled = [[row[c] / length[c] for c in channels] for row in hidden]
    products = [[dot(a, b) for b in scaled] for a in scaled]
    return [
        [(i == j) + weight * dot(products[i], products[j]) for j in range(len(hidden))]
        for i in range(len(hidden))
    ]


@given(st.integers(0, 10**6), st.sampled_from([0.01, 1.0]), st.data())
@settings(deadline=None, max_examples=20)
def test_each_pick_raises_the_log_determinant_most(
    seed: int, weight: float, data: st.DataObject
) -> None:
    torch.manual_seed(seed)
    count = data.draw(st.integers(1, 12))
    keep = data.draw(st.integers(1, count))
    hidden = torch.randn(2, count, 4)
    tokens = make_tokens(hidden, site=SITES["pre_llm"])
    found = OTPrune.from_params(weight=weight).reduce(tokens, budget(tokens, keep)).anchor
    assert found is not None
    for sample in range(2):
        whole = torch.tensor(kernel(hidden[sample].double().tolist(), weight), dtype=torch.float64)
        picks: list[int] = []
        for _ in range(keep):
            gains = {
                j: float(torch.logdet(whole[[*picks, j]][:, [*picks, j]]))
                for j in range(count)
                if j not in picks
            }
            picks.append(max(gains, key=lambda j: (gains[j], -j)))
        assert found[sample].tolist() == sorted(picks)
