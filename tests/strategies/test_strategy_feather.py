"""`feather` against loops over the steps of its page."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.feather import SECOND, Feather, steps
from torch import Tensor

import tokenprune
from tests import models
from tests.strategies.cases import SITES, best_by_loops, make_tokens
from tokenprune.interface.signals import Signal
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens

ASKED = Signal.LAST_QUERY_ATTENTION_AMONG_VISUAL


def tokens_of(score: Tensor, index: Tensor, grid: tuple[int, int, int]) -> Tokens:
    return make_tokens(
        torch.randn(*score.shape, 3),
        site=SITES["decoder"],
        signals={ASKED: score},
        index=index,
        grid=grid,
    )


def kept(tokens: Tokens, most: int = 0, **params: float) -> list[list[int]]:
    budget = Budget(tokens.count, most or tokens.count, given=bool(most))
    mask = Feather.from_params(**params).reduce(tokens, budget).mask
    assert mask is not None
    return [row.nonzero()[:, 0].tolist() for row in mask]


@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.3, 1.0]), st.integers(0, 3), st.data())
@settings(deadline=None, max_examples=40)
def test_the_first_step(seed: int, ratio: float, stride: int, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    count = data.draw(st.integers(1, 35))
    most = data.draw(st.integers(0, count))
    index = torch.stack([torch.randperm(35)[:count].sort().values for _ in range(2)])
    score = torch.randint(5 if seed % 2 else 10**6, (2, count)).float()
    found = kept(tokens_of(score, index, (1, 5, 7)), most, ratio=ratio, stride=stride)
    for sample in range(2):
        rows = score[sample].tolist()
        want = set(best_by_loops(rows, max(1, int(count * ratio + 1e-9))))
        for token, patch in enumerate(index[sample].tolist()):
            if stride and patch // 7 % stride == 0 and patch % 7 % stride == 0:
                want.add(token)
        if most:
            want = {token for token in best_by_loops(rows, count) if token in want}
            ordered = [token for token in best_by_loops(rows, count) if token in want]
            want = set(ordered[:most])
        assert found[sample] == sorted(want)


def test_the_second_step_has_no_grid_and_the_square() -> None:
    score = torch.arange(100.0)[None]
    tokens = tokens_of(score, torch.arange(100)[None], (1, 10, 10))
    noted = replace(tokens, riders={SECOND: torch.ones(1, 100)})
    assert kept(noted) == [[*range(91, 100)]]


@pytest.mark.parametrize(("layers", "where"), [(32, [8, 16]), (28, [7, 14]), (2, [1])])
def test_its_steps(layers: int, where: list[int]) -> None:
    assert [step.layer for step in steps(layers)] == where


def test_both_steps_in_a_model() -> None:
    model, picture = models.llava_clip(), models.IMAGE_TOKEN
    inputs = models.llava_inputs([[1, picture, 7, 8, 9]])
    stage = {"at": "decoder", "strategy": "feather", "params": {"ratio": 0.5}}
    with tokenprune.attach(model, {"schema_version": 1, "stages": [stage]}) as handle:
        with torch.no_grad():
            model(**inputs)
        counts = handle.meter.tokens
        # 18 of 36 and a grid of 4; then a quarter of what arrives
        assert 18 <= counts["decoder[1]"] <= 22
        assert counts["decoder[2]"] == int(counts["decoder[1]"] / 4)
