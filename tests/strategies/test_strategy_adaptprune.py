"""`adaptprune` against loops over the steps of its page."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.adaptprune import KEYS, AdaptPrune
from torch import Tensor

import tokenprune
from tests import models
from tests.strategies.cases import SITES, best_by_loops, budget, cosine, make_tokens
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens

Grid = tuple[int, int, int]


def kept(score: Tensor, keys: Tensor, index: Tensor, grid: Grid, keep: int, **params: Any) -> Any:
    tokens = make_tokens(
        torch.randn(*score.shape, 3),
        site=SITES["decoder"],
        signals={Signal.LAST_QUERY_ATTENTION: score, KEYS: keys},
        index=index,
        grid=grid,
    )
    found = AdaptPrune.from_params(**params).reduce(tokens, budget(tokens, keep)).anchor
    assert found is not None
    return found.tolist()


def bell(distance: float, sigma: float) -> float:
    return math.exp(-(distance**2) / (2 * sigma**2))


def along(place: int, side: int) -> float:
    """Where a row or column stands, of `side` even steps from -side / 2 to side / 2."""
    return -side / 2 + (place * side / (side - 1) if side > 1 else 0)


def by_loops(
    score: list[float],
    keys: list[list[float]],
    index: list[int],
    grid: Grid,
    keep: int,
    *,
    centre: float = 0.5,
    reach: float = 5.0,
    spread: float = 1.5,
    likeness: float = 0.05,
) -> list[int]:
    _, height, width = grid
    places = [(i // (height * width), i // width % height, i % width) for i in index]
    weight = [
        s * bell(along(y, height), centre * height) * bell(along(x, width), centre * width)
        for s, (_, y, x) in zip(score, places, strict=True)
    ]
    picks: list[int] = []
    while len(picks) < keep:
        free = [token for token in range(len(score)) if token not in picks]
        pick = free[best_by_loops([weight[token] for token in free], 1)[0]]
        picks.append(pick)
        for token in free:
            away = math.dist(places[token][1:], places[pick][1:])
            if places[token][0] == places[pick][0] and away <= reach:
                alike = bell(1 - cosine(keys[token], keys[pick]), likeness)
                weight[token] *= 1 - bell(away, spread) * alike
    return sorted(picks)


@given(
    st.integers(0, 10**6),
    st.sampled_from([(1, 6, 7), (3, 2, 5), (1, 1, 12)]),
    st.sampled_from([{}, {"likeness": 1.0, "spread": 4.0}, {"centre": 3.0, "reach": 2.0}]),
    st.data(),
)
@settings(deadline=None, max_examples=40)
def test_against_loops(seed: int, grid: Grid, params: dict[str, Any], data: st.DataObject) -> None:
    torch.manual_seed(seed)
    patches = math.prod(grid)
    count = data.draw(st.integers(2, patches))
    keep = data.draw(st.integers(1, count - 1))
    index = torch.stack([torch.randperm(patches)[:count].sort().values for _ in range(2)])
    # a few directions, so that some keys are alike
    keys = torch.randn(2, 3, 8)[:, torch.arange(count) % 3] + 0.1 * torch.randn(2, count, 8)
    score = torch.rand(2, count)
    found = kept(score, keys, index, grid, keep, **params)
    for sample in range(2):
        rows = score[sample].tolist(), keys[sample].double().tolist(), index[sample].tolist()
        assert found[sample] == by_loops(*rows, grid, keep, **params)


def test_what_is_near_and_like_a_pick_gives_way() -> None:
    score = torch.tensor([[1.0, 0.9, 0.5, 0.4]])
    alike, line = torch.ones(1, 4, 3), torch.arange(4)[None]
    unlike = torch.eye(4)[None]
    assert kept(score, alike, line, (1, 1, 4), 2, centre=1e3) == [[0, 3]]
    assert kept(score, unlike, line, (1, 1, 4), 2, centre=1e3) == [[0, 1]]
    # frames are not near each other, and what is beyond reach keeps its weight
    assert kept(score, alike, line, (4, 1, 1), 2, centre=1e3) == [[0, 1]]
    assert kept(score, alike, line, (1, 1, 4), 2, centre=1e3, reach=0.5) == [[0, 1]]


def test_ties_and_weights_of_nothing_go_to_the_lower_index() -> None:
    score, keys = torch.zeros(1, 6), torch.ones(1, 6, 2)
    assert kept(score, keys, torch.arange(6)[None], (1, 2, 3), 4) == [[0, 1, 2, 3]]


def test_no_token_is_picked_twice_where_a_pick_leaves_the_others_nothing() -> None:
    score, keys = torch.tensor([[0.9, 0.1, 0.2, 0.3]]), torch.ones(1, 4, 2)
    wide = {"spread": 1e5, "likeness": 1.0}
    assert kept(score, keys, torch.arange(4)[None], (1, 2, 2), 3, **wide) == [[0, 1, 2]]


def test_keys_are_those_of_the_layer_itself_without_rotation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, picture = models.llava_clip(), models.IMAGE_TOKEN
    seen: list[Tokens] = []
    plain = AdaptPrune.reduce

    def watched(self: AdaptPrune, tokens: Tokens, budget: Budget) -> Reduction:
        seen.append(tokens)
        return plain(self, tokens, budget)

    monkeypatch.setattr(AdaptPrune, "reduce", watched)
    stage = {"at": "decoder", "strategy": "adaptprune", "keep": 9}
    call = models.llava_inputs([[1, picture, 7, 8, 9], [1, 10, 11, picture, 12, 7, 8]])
    with torch.no_grad():
        with tokenprune.attach(model, {"schema_version": 1, "stages": [stage]}) as handle:
            model(**call)
            assert handle.meter.tokens["decoder[2]"] == 9
        layer = model.model.language_model.layers[2]
        assert sum(len(tokens.hidden) for tokens in seen) == 2
        for tokens in seen:
            want = layer.self_attn.k_proj(layer.input_layernorm(tokens.hidden))
            torch.testing.assert_close(tokens.signal(KEYS), want, atol=1e-5, rtol=1e-4)
