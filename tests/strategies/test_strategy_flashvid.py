"""`flashvid` against loops over the steps of its page."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.flashvid import FlashVID
from torch import Tensor

import tokenprune
from tests import models
from tests.strategies.cases import SITES, best_by_loops, budget, cosine, make_tokens
from tests.strategies.loops import dot, mean
from tests.strategies.prunevid_oracle import peaks
from tests.strategies.test_strategy_fastvid import cuts
from tests.strategies.videos import GRIDS, Grid, clip
from tokenprune.errors import BudgetError
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.strategy import Budget, placement

Rows = list[list[float]]
Left = dict[int, tuple[list[float], set[int]]]
"""By place: a state, and the tokens in it."""


def answer(hidden: Tensor, score: Tensor, grid: Grid, keep: int, **params: Any) -> Reduction:
    signals = {Signal.ATTENTION_RECEIVED: score}
    tokens = make_tokens(hidden, site=SITES["pre_llm"], signals=signals, grid=grid)
    return FlashVID.from_params(**params).reduce(tokens, budget(tokens, keep))


def distant(rows: Rows, mine: list[int], gain: list[float], count: int) -> list[int]:
    """One after another the token whose nearest pick is farthest, its gain counted."""
    picks: list[int] = []
    while len(picks) < min(count, len(mine)):
        free = [i for i in mine if i not in picks]
        far = [
            min((1 - cosine(rows[i], rows[j]) for j in picks or mine if j != i), default=math.inf)
            for i in free
        ]
        picks.append(
            free[best_by_loops([f * gain[i] for f, i in zip(far, free, strict=True)], 1)[0]]
        )
    return sorted(picks)


def forest(rows: Rows, rest: list[list[int]], tau: float, most: int) -> dict[int, int]:
    """The parent of every token that goes."""
    found: list[tuple[float, int, int]] = []
    for before, mine in itertools.pairwise(rest):
        for i in mine if before else ():
            alike = [cosine(rows[i], rows[j]) for j in before]
            best = best_by_loops(alike, 1)[0]
            found.append((-alike[best], i, before[best]))
    return {i: j for alike, i, j in sorted(found)[:most] if -alike > tau}


def grow(rows: Rows, parent: dict[int, int], tree: int) -> tuple[list[float], set[int]]:
    """The sum over a tree, over one and the children of its root; and its tokens."""
    inside, waiting = {tree}, [tree]
    while waiting:
        children = [i for i, j in parent.items() if j == waiting[0]]
        inside |= set(children)
        waiting = [*waiting[1:], *children]
    own = 1 + sum(j == tree for j in parent.values())
    return [sum(column) / own for column in zip(*(rows[i] for i in inside), strict=True)], inside


def by_loops(rows: Rows, score: list[float], grid: Grid, keep: int, **params: Any) -> Left:
    inside, own = grid[1] * grid[2], keep // grid[0]
    first = math.ceil(own * params["alpha"] - 1e-9)
    score = score if params["alpha"] else [1.0] * len(score)
    left: Left = {}
    for frames in cuts(rows, grid, params["segments"], params["threshold"]):
        of = [[*range(t * inside, t * inside + inside)] for t in frames]
        middle = mean([mean([rows[i] for i in mine]) for mine in of])
        gain = [
            s * (dot(x, middle) if params["events"] else 1)
            for s, x in zip(score, rows, strict=True)
        ]
        rest = []
        for mine in of:
            picks = distant(rows, mine, gain, first)
            left |= {i: (rows[i], {i}) for i in picks}
            rest.append([i for i in mine if i not in picks])
        most = (own - first) * len(frames)
        parent = forest(rows, rest, params["tau"], max(0, sum(map(len, rest)) - most))
        here = [[i for i in mine if i not in parent] for mine in rest]
        share = most / max(1, sum(map(len, here)))
        counts = [len(m) if share >= 1 else math.ceil(len(m) * share - 1e-9) for m in here]
        while sum(counts) > most:
            counts[len(counts) - 1 - counts[::-1].index(max(counts))] -= 1
        for mine, count in zip(here, counts, strict=True):
            trees = [grow(rows, parent, i) for i in mine]
            if not count:
                continue
            centres, owner = peaks([state for state, _ in trees], count, min(7, count))
            for centre in centres:
                joined = [trees[n] for n, o in enumerate(owner) if o == centre]
                whole = set().union(*(tokens for _, tokens in joined))
                left[mine[centre]] = mean([state for state, _ in joined]), whole
    return left


@given(GRIDS, st.integers(0, 10**6), st.data())
@settings(deadline=None, max_examples=80)
def test_against_loops(grid: Grid, seed: int, data: st.DataObject) -> None:
    count = math.prod(grid)
    keep = data.draw(st.integers(grid[0], count))
    told = {
        "alpha": data.draw(st.sampled_from([0.0, 0.3, 0.7, 1.0])),
        "events": data.draw(st.booleans()),
        "tau": data.draw(st.sampled_from([-1.0, 0.5, 0.8])),
        "segments": data.draw(st.integers(1, 8)),
        "threshold": data.draw(st.sampled_from([-1.0, 0.5, 0.9])),
    }
    hidden = clip(grid, seed)
    score = torch.rand(2, count, generator=torch.Generator().manual_seed(seed)) + 0.1
    found = answer(hidden, score, grid, keep, **told)
    if keep == count:
        assert not found.changes
        return
    for sample in range(2):
        rows = hidden[sample].double().tolist()
        want = by_loops(rows, score[sample].double().tolist(), grid, keep, **told)
        part = found.samples[sample]
        assert part.anchor is not None
        assert part.slot is not None
        places = part.anchor[0].tolist()
        assert places == sorted(want)
        assert len(want) <= keep
        slots = {i: n for n, place in enumerate(places) for i in want[place][1]}
        assert part.slot[0].tolist() == [slots.get(i, -1) for i in range(count)]
        states = part.apply(hidden[sample : sample + 1], torch.ones(1, count))[0]
        made = torch.tensor([want[place][0] for place in places], dtype=torch.float32)
        torch.testing.assert_close(states, made, rtol=1e-4, atol=1e-4)


def test_a_still_video_grows_one_tree_a_place() -> None:
    hidden = torch.eye(9).expand(1, 3, -1, -1).flatten(1, 2)
    told = {"alpha": 0.0, "segments": 1}
    (part,) = answer(hidden, torch.ones(1, 27), (3, 3, 3), 9, **told).samples
    assert part.anchor is not None
    assert part.anchor[0].tolist() == [*range(9)]
    states = part.apply(hidden, torch.ones(1, 27))[0]
    assert torch.equal(states, 1.5 * torch.eye(9))  # three tokens over one and a child


def test_every_frame_needs_a_token_before_the_llm() -> None:
    with pytest.raises(BudgetError) as caught:
        FlashVID.from_params().check(SITES["pre_llm"], Budget(36, 3), (4, 3, 3))
    assert caught.value.nearest == 4
    FlashVID.from_params().check(SITES["decoder"], Budget(36, 3), (4, 3, 3))


def test_what_it_asks_for() -> None:
    assert FlashVID.from_params(alpha=0).signals(SITES["pre_llm"]) == ()
    assert FlashVID.from_params().signals(SITES["pre_llm"]) == (Signal.ATTENTION_RECEIVED,)
    assert FlashVID.from_params().signals(SITES["decoder"]) == (Signal.LAST_QUERY_ATTENTION,)


@pytest.mark.parametrize(("layers", "layer"), [(28, 20), (36, 20), (24, 17), (4, 2), (1, 1)])
def test_its_layer(layers: int, layer: int) -> None:
    assert placement(FlashVID, "decoder").layer_of(layers) == layer


def test_inside_the_llm_the_most_attended_stay() -> None:
    score = torch.randint(6, (3, 12)) / 6
    signals = {Signal.LAST_QUERY_ATTENTION: score}
    tokens = make_tokens(torch.randn(3, 12, 4), site=SITES["decoder"], signals=signals)
    found = FlashVID.from_params().reduce(tokens, budget(tokens, 5)).anchor
    assert found is not None
    assert found.tolist() == [sorted(best_by_loops(row, 5)) for row in score.tolist()]


def test_both_stages_in_a_model() -> None:
    model, picture = models.llava_clip(), models.IMAGE_TOKEN
    inputs = models.llava_inputs([[1, picture, picture, 7, 8, 9], [1, picture, 11]])
    stages = [
        {"at": "pre_llm", "strategy": "flashvid", "keep": 0.5},
        {"at": "decoder", "strategy": "flashvid", "keep": 0.3},
    ]
    plan = {"schema_version": 1, "images": "frames", "stages": stages}
    with tokenprune.attach(model, plan) as handle, torch.no_grad():
        model(**inputs)
        assert [0 < image.kept <= 5 * image.grid[0] for image in handle.trace.images] == [True] * 2
