"""`sparsevlm2` against loops over the steps of its page."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.sparsevlm import SparseVLM2
from tokenprune_strategies.sparsevlm.raters import RATERS
from tokenprune_strategies.sparsevlm.second import steps
from torch import Tensor

from tests.strategies.cases import best_by_loops, budget, make_tokens
from tests.strategies.sparsevlm_oracle import PLACE, raters_by_loops
from tokenprune.errors import LayerError
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens
from tokenprune.plan.budget import decoder_keeps

FRONT, SITE = Site("decoder", 0, 32), Site("decoder", 3, 32)
HEADS = 4


def picture(count: int, site: Site = SITE) -> Tokens:
    signals = {Signal.TEXT_STATES: torch.randn(3, 5, 3), Signal.TEXT_PLACE: PLACE}
    if site.layer:
        signals[Signal.TEXT_ATTENTION_BY_HEAD] = torch.rand(3, 5, HEADS, count)
        signals[Signal.TEXT_ROTATION] = torch.randn(3, 5, count)
    return make_tokens(torch.randn(3, count, 3), site=site, signals=signals)


def by_loops(weights: Tensor, rotation: Tensor, rating: list[int], heads: int) -> list[float]:
    """Scores of one sample: `[S, H, N]` and `[S, N]`."""
    count = weights.shape[2]
    rows = []
    for head in range(HEADS):
        row = [0.0] * count
        for word in rating:
            for token in range(count):
                row[token] += float(weights[word, head, token] / rotation[word, token])
        rows.append([value / len(rating) for value in row])
    best = best_by_loops([sum(row) for row in rows], heads)
    return [sum(rows[head][token] for head in best) / heads for token in range(count)]


@given(
    st.integers(0, 10**6), st.sampled_from([(0.25, 1), (0.4375, 1), (0.5, 2), (1.0, 4)]), st.data()
)
@settings(deadline=None, max_examples=30)
def test_a_step_against_loops(seed: int, heads: tuple[float, int], data: st.DataObject) -> None:
    torch.manual_seed(seed)
    count = data.draw(st.integers(2, 30))
    keep = data.draw(st.integers(1, count - 1))
    tokens = picture(count)
    answer = SparseVLM2.from_params(heads=heads[0]).reduce(tokens, budget(tokens, keep))
    assert answer.anchor is not None
    assert answer.score is not None
    for sample in range(3):
        text = tokens.signal(Signal.TEXT_STATES)[sample].tolist()
        rating = raters_by_loops(tokens.hidden[sample].tolist(), text, PLACE[sample].tolist())
        assert answer.riders[RATERS][sample, 0].nonzero()[:, 0].tolist() == rating
        weights = tokens.signal(Signal.TEXT_ATTENTION_BY_HEAD)[sample]
        rotation = tokens.signal(Signal.TEXT_ROTATION)[sample]
        score = by_loops(weights, rotation, rating, heads[1])
        torch.testing.assert_close(answer.score[sample], torch.tensor(score), atol=1e-4, rtol=1e-3)
        found = answer.score[sample].tolist()
        assert answer.anchor[sample].tolist() == sorted(best_by_loops(found, keep))


def test_a_prompt_without_text_leaves_the_others_of_its_batch_alone() -> None:
    torch.manual_seed(0)
    tokens, strategy = picture(9), SparseVLM2.from_params()
    alone = strategy.reduce(tokens, budget(tokens, 4))
    silent = PLACE.clone()
    silent[1] = -1
    signals = {**tokens.signals, Signal.TEXT_PLACE.name: silent}
    found = strategy.reduce(replace(tokens, signals=signals), budget(tokens, 4))
    assert found.anchor is not None
    assert alone.anchor is not None
    assert found.anchor[1].tolist() == [0, 1, 2, 3]
    assert torch.equal(found.anchor[[0, 2]], alone.anchor[[0, 2]])


def test_raters_are_noted_in_front_of_layer_0() -> None:
    front = picture(6, FRONT)
    assert SparseVLM2.from_params().signals(FRONT) == (Signal.TEXT_STATES, Signal.TEXT_PLACE)
    looked = SparseVLM2.from_params().reduce(front, budget(front, 6))
    assert not looked.changes
    assert looked.riders[RATERS].shape == (3, 6, 5)


def test_what_position_alone_gives_may_be_zero() -> None:
    tokens = picture(4)
    tokens.signals[Signal.TEXT_ROTATION.name].zero_()
    answer = SparseVLM2.from_params().reduce(tokens, budget(tokens, 2))
    assert answer.score is not None
    assert torch.isfinite(answer.score).all()


def test_steps_are_the_codes_largest_budget() -> None:
    found = steps(32)
    at = [step.layer for step in found]
    assert at == [0, 3, 7, 16]
    assert decoder_keeps([step.keep for step in found], at, 576, 32) == (576, 300, 200, 118)
    assert math.prod(step.keep for step in steps(4)) == pytest.approx(118 / 576)


def test_dropping_in_front_of_layer_0_is_refused() -> None:
    with pytest.raises(LayerError, match="'sparsevlm2' drops by the attention of the layer before"):
        SparseVLM2.from_params().check(FRONT, Budget(576, 100), (1, 24, 24))
