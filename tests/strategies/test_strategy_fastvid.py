"""`fastvid` against loops over the steps of its page."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.fastvid import FastVID
from tokenprune_strategies.fastvid.anchors import anchors
from tokenprune_strategies.shared.runs import Run
from tokenprune_strategies.shared.segments import segments
from torch import Tensor

from tests.strategies.cases import SITES, best_by_loops, budget, cosine, make_tokens
from tests.strategies.loops import mean
from tests.strategies.prunevid_oracle import peaks
from tests.strategies.videos import GRIDS, Grid, clip
from tokenprune.errors import BudgetError
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.strategy import Budget

Rows = list[list[float]]


def answer(hidden: Tensor, score: Tensor, grid: Grid, keep: int, **params: Any) -> Reduction:
    signals = {Signal.ATTENTION_RECEIVED: score}
    tokens = make_tokens(hidden, site=SITES["pre_llm"], signals=signals, grid=grid)
    return FastVID.from_params(**params).reduce(tokens, budget(tokens, keep))


def cuts(rows: Rows, grid: Grid, count: int, threshold: float) -> list[list[int]]:
    """Frames of every segment."""
    inside = grid[1] * grid[2]
    middle = [mean(rows[t * inside : t * inside + inside]) for t in range(grid[0])]
    alike = [cosine(a, b) for a, b in itertools.pairwise(middle)]
    least = best_by_loops([-one for one in alike], count - 1)
    found = [[0]]
    for t in range(1, grid[0]):
        if alike[t - 1] < threshold or t - 1 in least:
            found.append([])
        found[-1].append(t)
    return found


def by_loops(
    rows: Rows, score: list[float], grid: Grid, keep: int, **params: Any
) -> dict[int, list[float]]:
    """The states that are left, by place."""
    inside = grid[1] * grid[2]
    own = keep // grid[0]
    context = int(own * params.get("context", 0.4) + 1e-9)
    left: dict[int, list[float]] = {}
    rest: list[list[int]] = []
    for t in range(grid[0]):
        mine = range(t * inside, t * inside + inside)
        best = [mine[n] for n in best_by_loops([score[i] for i in mine], own - context)]
        left |= {i: rows[i] for i in best}
        rest.append([i for i in mine if i not in best])
    for frames in cuts(rows, grid, params["segments"], params["threshold"]):
        found = [t for t in frames if (frames[-1] - t) % 4 == 0]
        members = [i for t in frames for i in rest[t]]
        for t in found:
            count = min(context * len(frames) // len(found), len(rest[t]))
            if not count:
                continue
            centres = [rest[t][n] for n in peaks([rows[i] for i in rest[t]], count, 4)[0]]
            joined: dict[int, list[int]] = {centre: [] for centre in centres}
            for i in members:
                likeness = [cosine(rows[i], rows[c]) for c in centres]
                joined[i if i in centres else centres[best_by_loops(likeness, 1)[0]]].append(i)
            for centre, mine in joined.items():
                share = max(0.6, 1 / (len(mine) + 1))
                middle = mean([rows[i] for i in mine])
                left[centre] = [
                    share * a + (1 - share) * b for a, b in zip(rows[centre], middle, strict=True)
                ]
    return left


@given(GRIDS, st.integers(0, 10**6), st.sampled_from([0.0, 0.4, 1.0]), st.data())
@settings(deadline=None, max_examples=60)
def test_against_loops(grid: Grid, seed: int, context: float, data: st.DataObject) -> None:
    count = math.prod(grid)
    keep = data.draw(st.integers(grid[0], count))
    told = {
        "segments": data.draw(st.integers(1, 8)),
        "threshold": data.draw(st.sampled_from([-1.0, 0.5, 0.9])),
        "context": context,
    }
    hidden = clip(grid, seed)
    score = torch.rand(2, count, generator=torch.Generator().manual_seed(seed))
    found = answer(hidden, score, grid, keep, **told)
    if keep == count:
        assert not found.changes
        return
    for sample in range(2):
        rows = hidden[sample].double().tolist()
        want = by_loops(rows, score[sample].double().tolist(), grid, keep, **told)
        part = found.samples[sample]
        assert part.anchor is not None
        assert part.anchor[0].tolist() == sorted(want)
        assert len(want) <= keep
        states = part.apply(hidden[sample : sample + 1], torch.ones(1, count))[0]
        made = torch.tensor([want[place] for place in sorted(want)], dtype=torch.float32)
        torch.testing.assert_close(states, made, rtol=1e-4, atol=1e-5)


def test_segments_and_anchors() -> None:
    frames = torch.eye(3)[[0, 0, 0, 0, 0, 0, 1, 1, 1, 2]]
    assert segments(frames, 1, 0.9) == [Run(0, 6), Run(6, 9), Run(9, 10)]
    # of equal likenesses the first are cut
    assert segments(frames, 4, 0.9) == [Run(0, 1), Run(1, 6), Run(6, 9), Run(9, 10)]
    assert anchors(Run(0, 6), 4) == [1, 5]
    assert anchors(Run(9, 10), 4) == [9]


def test_every_frame_needs_a_token() -> None:
    with pytest.raises(BudgetError) as caught:
        FastVID.from_params().check(SITES["pre_llm"], Budget(36, 3), (4, 3, 3))
    assert caught.value.nearest == 4


def test_without_salient_tokens_no_attention_is_asked_for() -> None:
    assert FastVID.from_params(context=1.0).signals(SITES["pre_llm"]) == ()
    assert FastVID.from_params().signals(SITES["pre_llm"]) == (Signal.ATTENTION_RECEIVED,)
