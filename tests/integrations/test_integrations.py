"""`tokenprune.integrations`: what serving engines call."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tokenprune.errors import BudgetError, DataError, PlanError, SignalError
from tokenprune.integrations import count, select

GRID = (1, 4, 6)
FEATURES = torch.randn(3, 24, 8, generator=torch.Generator().manual_seed(0))


def plan(*stages: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    return {"seed": seed, "stages": [{"at": "pre_llm", **stage} for stage in stages]}


UNIFORM = plan({"strategy": "uniform", "keep": 0.5})
TWO = plan({"strategy": "random", "keep": 12}, {"strategy": "uniform", "keep": 5})


@pytest.mark.parametrize(("given", "left"), [(UNIFORM, 12), (TWO, 5), ({"stages": []}, 24)])
def test_count_is_what_select_leaves(given: dict[str, Any], left: int) -> None:
    chosen = select(FEATURES, GRID, given)
    assert count(GRID, given) == left == chosen.features.shape[1]
    rows = torch.arange(3)[:, None]
    assert torch.equal(chosen.features, FEATURES[rows, chosen.index])
    assert (chosen.index.diff(dim=1) > 0).all()


def test_budgets_of_videos_count_per_frame() -> None:
    two = plan({"strategy": "uniform", "keep": 3})
    assert count((2, 4, 3), two) == 6 == select(FEATURES, (2, 4, 3), two).features.shape[1]


def test_budgets_per_tile_count_the_pieces() -> None:
    given = plan({"strategy": "uniform", "keep": {"per_tile": 4}})
    for tiles, left in ((None, 4), (3, 12), (7, 24)):
        chosen = select(FEATURES, GRID, given, tiles=tiles)
        assert count(GRID, given, tiles=tiles) == left == chosen.features.shape[1]


def test_a_batch_gives_what_its_images_give() -> None:
    together = select(FEATURES, GRID, TWO)
    for row in range(3):
        alone = select(FEATURES[row : row + 1], GRID, TWO)
        assert torch.equal(alone.index[0], together.index[row])


def test_signals_choose_and_ride_along() -> None:
    attention = torch.rand(3, 24, generator=torch.Generator().manual_seed(1))
    by_score = {"strategy": "fopru", "params": {"direction": "received"}}
    signals = {"attention_received": attention}
    chosen = select(FEATURES, GRID, plan({**by_score, "keep": 6}), signals=signals)
    assert torch.equal(chosen.index, attention.topk(6).indices.sort().values)
    behind = plan({"strategy": "random", "keep": 12}, {**by_score, "keep": 6})
    first = select(FEATURES, GRID, plan({"strategy": "random", "keep": 12})).index
    best = attention.gather(1, first).topk(6).indices
    chosen = select(FEATURES, GRID, behind, signals=signals)
    assert torch.equal(chosen.index, first.gather(1, best).sort().values)


def test_what_is_refused() -> None:
    with pytest.raises(SignalError, match="attention"):
        select(FEATURES, GRID, plan({"strategy": "fopru", "keep": 6}))
    with pytest.raises(PlanError, match="inside the vision tower"):
        count(GRID, {"stages": [{"at": "encoder", "strategy": "tome", "keep": 12}]})
    with pytest.raises(BudgetError):
        count(GRID, plan({"strategy": "uniform", "keep": 25}))
    with pytest.raises(PlanError, match="fill a grid"):
        select(FEATURES, (1, 5, 5), UNIFORM)


@pytest.mark.parametrize("grid", [(24, 24), (1, 0, 24), (1, 2.5, 4), (1, 2, 3, 4), (True, 2, 2), 7])
def test_a_grid_has_three_whole_sides(grid: Any) -> None:
    with pytest.raises(DataError, match=r"no patch grid.* A grid is \(t, h, w\)") as caught:
        count(grid, UNIFORM)
    assert repr(grid) in str(caught.value)
    with pytest.raises(DataError, match="no patch grid"):
        select(FEATURES, grid, UNIFORM)


def test_features_are_a_batch() -> None:
    with pytest.raises(PlanError, match=r"\[24, 8\] don't fill .*\[B, 24, D\]"):
        select(FEATURES[0], GRID, UNIFORM)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("attention_received", torch.rand(3, 25), r"is \[3, 25\], .* \[3, 24\]"),
        ("attention_received", torch.rand(24), r"is \[24\], .* \[3, 24\]"),
        ("attention_received", torch.rand(3, 24, 2), r"is \[3, 24, 2\], .* \[3, 24\]"),
        ("keys", torch.rand(3, 23, 4), r"is \[3, 23, 4\], .* \[3, 24, d\]"),
        ("hidden@2", torch.rand(3, 24), r"is \[3, 24\], .* \[3, 24, D\]"),
        ("question_state", torch.rand(2, 4), r"is \[2, 4\], .* \[3, d_llm\]"),
        ("my_own", torch.rand(3, 9), r"is \[3, 9\], .* \[3, 24, ...\]"),
        ("attention_received", [0.5] * 24, "is list, but has to be a tensor"),
    ],
)
def test_a_signal_of_the_wrong_shape_is_the_callers(name: str, value: Any, message: str) -> None:
    with pytest.raises(SignalError, match=f"'{name}' {message}") as caught:
        select(FEATURES, GRID, UNIFORM, signals={name: value})
    assert "author" not in str(caught.value)


def test_a_misspelt_signal_is_named() -> None:
    by_score = plan({"strategy": "fopru", "keep": 6, "params": {"direction": "received"}})
    with pytest.raises(
        SignalError, match=r"no signal 'attention_recieved'\. Did you mean 'attention_rec"
    ):
        select(FEATURES, GRID, by_score, signals={"attention_recieved": torch.rand(3, 24)})
    with pytest.raises(SignalError, match="Pass it in signals"):
        select(FEATURES, GRID, by_score, signals={"attention_given": torch.rand(3, 24)})
