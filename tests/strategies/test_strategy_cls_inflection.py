import statistics
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenprune_strategies.cls_inflection import ClsInflection
from tokenprune_strategies.cls_inflection.knees import bend, smooth

from tests.strategies.cases import SITES, cosine, make_tokens
from tests.strategies.cls_inflection_oracle import (
    SIGNALS,
    WINDOW,
    best,
    image,
    kept,
    long_tail,
    oracle,
    smoothed,
)
from tokenprune.interface.signals import Signal
from tokenprune.interface.strategy import Budget, placement

KNEES = ("chord", "mass", "max_drop", "otsu", "iqr", "lof")


@pytest.mark.parametrize("knee", KNEES)
@given(st.integers(0, 10**6), st.integers(6, 60))
@settings(deadline=None, max_examples=15)
def test_choice_against_loops(knee: str, seed: int, count: int) -> None:
    score = torch.stack([long_tail(count, seed), torch.rand(count).double()]).float()
    found = kept(image(score), knee=knee, k_min=3, k_max=0.75)
    for row, values in enumerate(score.double().tolist()):
        order = sorted(range(count), key=lambda i: (-values[i], i))
        length = oracle([values[i] for i in order], knee, 3)
        length = min(max(length, 3), int(0.75 * count))
        assert found[row] == sorted(order[:length])


@given(st.lists(st.integers(1, 50), min_size=2, max_size=40))
@settings(deadline=None, max_examples=100)
def test_mass_is_the_number_of_values_above_the_mean(values: list[int]) -> None:
    y = sorted(values, reverse=True)
    total, n = sum(y), len(y)
    gain = [sum(y[: i + 1]) * n - (i + 1) * total for i in range(n)]  # whole, so without rounding
    above = sum(value * n > total for value in y)
    assert above == (best([float(g) for g in gain]) if max(gain) > 0 else 0)
    assert bend(torch.tensor(y).double(), "mass", WINDOW, 1) == above


def test_typical_behaviour_on_a_synthetic_long_tail() -> None:
    place = torch.arange(560, dtype=torch.float64)
    tail = -torch.log((place + 0.5) / 560)
    curve = torch.cat((torch.linspace(12, 8, 16).double(), tail)).sort(descending=True).values
    found = {knee: bend(curve, knee, WINDOW, 1) for knee in KNEES}
    assert 165 < found["mass"] < 205
    assert 60 < found["chord"] < 110
    assert 16 <= found["otsu"] < 80
    assert 16 <= found["iqr"] < 55
    assert 5 <= found["max_drop"] <= 20
    assert found["mass"] > found["chord"] > found["otsu"] >= found["max_drop"]


def test_smoothing_shortens_its_window_at_the_ends() -> None:
    y = [9.0, 7.0, 4.0, 2.0, 1.0, 0.0]
    assert smooth(torch.tensor(y).double(), WINDOW).tolist() == pytest.approx(smoothed(y))
    assert smooth(torch.tensor(y).double(), 1).tolist() == y


def test_one_step_does_not_decide_a_smoothed_curve() -> None:
    """Register-like outliers: the steepest fall is behind two patches, the floor holds."""
    score = torch.linspace(1, 0.5, 100)
    score[[3, 70]] = 40.0
    for knee in ("max_drop", "chord"):
        found = kept(image(score[None]), knee=knee)[0]
        assert len(found) >= 16
        assert {3, 70} <= set(found)


@pytest.mark.parametrize("knee", KNEES)
@pytest.mark.parametrize("value", [0.0, 0.25, -1.0])
def test_flat_curves_keep_evenly_spaced_tokens(knee: str, value: float) -> None:
    flat = torch.full((1, 64), value)
    spread = kept(image(flat), knee=knee, k_min=4)
    assert spread == [[8, 24, 40, 56]]
    noise = flat * (1 + 1e-8 * torch.rand(1, 64))
    assert kept(image(noise), knee=knee, k_min=4) == spread
    assert kept(image(flat, "cosine"), similarity="cosine", knee=knee, k_min=4) == spread


def test_bounds_in_tokens_and_shares() -> None:
    score = torch.zeros(1, 64)
    score[0, 5] = 1.0  # the curve bends behind one token
    assert len(kept(image(score), window=1)[0]) == 16
    assert len(kept(image(score), window=1, k_min=0.125)[0]) == 8
    assert len(kept(image(score), window=1, k_min=1)[0]) == 2
    many = torch.linspace(0, 1, 64)[None] ** 0.1
    assert len(kept(image(many), knee="mass", k_max=0.25)[0]) == 16
    assert len(kept(image(many), knee="mass", k_max=20)[0]) == 20
    assert len(kept(image(many), k_min=40, k_max=10)[0]) == 10, "k_max beats k_min"
    assert len(kept(image(many[:, :6]), k_min=40)[0]) == 3, "half of six"
    video = image(many, grid=(4, 4, 4))
    assert len(kept(video, k_min=2, k_max=3, knee="iqr")[0]) == 8, "per frame"
    for bad in ({"k_min": 0}, {"k_min": 1.5}, {"k_max": True}, {"k_max": 0.0}):
        with pytest.raises(ValidationError):
            ClsInflection.from_params(**bad)


def test_a_given_budget_is_a_ceiling() -> None:
    score = long_tail(60, 1)[None].float()
    own = len(kept(image(score), k_min=2)[0])
    assert 2 < own < 30
    for keep in range(1, 61):
        found = kept(image(score), Budget(60, keep), k_min=2)[0]
        assert len(found) == min(own, keep)


def test_budgets_differ_from_sample_to_sample_and_a_batch_is_its_samples() -> None:
    score = torch.stack([long_tail(60, seed) for seed in (1, 2)]).float()
    score = torch.cat((score, torch.rand(1, 60)))
    together = kept(image(score), k_min=2)
    assert len({len(row) for row in together}) > 1
    for row in range(3):
        assert kept(image(score[row : row + 1]), k_min=2) == [together[row]]


def test_ties_go_to_the_lower_index() -> None:
    score = torch.tensor([[1.0, 3.0, 3.0, 3.0, 1.0, 1.0, 1.0, 1.0]])
    assert kept(image(score), k_min=2, k_max=2) == [[1, 2]]


def test_cosines_are_scaled_image_by_image() -> None:
    score = torch.tensor([[-0.8, -0.7, -0.2, -0.9, -0.3, -0.85, -0.8, -0.75]])
    bounds: dict[str, Any] = {"k_min": 1, "k_max": 1.0, "knee": "mass"}
    found = kept(image(score, "cosine"), similarity="cosine", **bounds)[0]
    scaled = [(value + 0.9) / 0.7 for value in score[0].tolist()]
    above = [i for i, value in enumerate(scaled) if value > statistics.fmean(scaled)]
    assert found == above


def test_pooled_similarity_needs_no_signal() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(2, 12, 4)
    size = torch.randint(1, 4, (2, 12)).float()
    tokens = make_tokens(hidden, site=SITES["pre_llm"], size=size)
    strategy = ClsInflection.from_params(similarity="pooled", k_min=3, k_max=3)
    assert strategy.signals(SITES["pre_llm"]) == ()
    found = kept(tokens, similarity="pooled", k_min=3, k_max=3)
    for row in range(2):
        rows = hidden[row].tolist()
        weight = size[row].tolist()
        mean = [
            sum(w * x[d] for w, x in zip(weight, rows, strict=True)) / sum(weight) for d in range(4)
        ]
        alike = [cosine(x, mean) for x in rows]
        assert found[row] == sorted(sorted(range(12), key=lambda i: -alike[i])[:3])


def test_signals_and_layers() -> None:
    for similarity, signal in SIGNALS.items():
        strategy = ClsInflection.from_params(similarity=similarity)
        assert strategy.signals(SITES["pre_llm"]) == (signal,)
        asked = (Signal.QUESTION_ATTENTION_MEAN, Signal.BEHIND_IMAGES)
        assert strategy.signals(SITES["decoder"]) == asked
    own = placement(ClsInflection, "decoder")
    assert [own.layer_of(count) for count in (2, 3, 32)] == [
        1,
        2,
        2,
    ]
