"""`holitom` against loops over the steps of its page."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.holitom import HoliTom
from tokenprune_strategies.holitom.windows import windows
from torch import Tensor

from tests.strategies.cases import SITES, best_by_loops, budget, cosine, make_tokens
from tests.strategies.loops import mean
from tests.strategies.prunevid_oracle import peaks
from tests.strategies.videos import GRIDS, Grid, clip
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal

Rows = list[list[float]]


def answer(hidden: Tensor, score: Tensor, grid: Grid, keep: int, **params: Any) -> Reduction:
    signals = {Signal.ATTENTION_RECEIVED: score}
    tokens = make_tokens(hidden, site=SITES["pre_llm"], signals=signals, grid=grid)
    return HoliTom.from_params(**params).reduce(tokens, budget(tokens, keep))


def alike(rows: Rows, grid: Grid, tau: float) -> list[list[bool]]:
    inside = grid[1] * grid[2]
    return [
        [cosine(rows[t * inside + p], rows[(t + 1) * inside + p]) > tau for p in range(inside)]
        for t in range(grid[0] - 1)
    ]


def cut(still: list[list[bool]], frames: int) -> tuple[list[tuple[int, int]], int]:
    """Every way to cut the video; the best, of equals that with the shorter last windows."""
    best: tuple[int, list[tuple[int, int]]] = (-1, [])
    for mask in range(2 ** (frames - 1)):
        starts = [0, *(t + 1 for t in range(frames - 1) if mask >> t & 1), frames]
        runs = list(itertools.pairwise(starts))
        saved = 0
        for start, stop in runs:
            steady = [all(column) for column in zip(*still[start : stop - 1], strict=True)]
            saved += sum(steady) * (stop - start - 1)
        lengths = [start - stop for start, stop in reversed(runs)]
        if (saved, lengths) > (best[0], [a - b for a, b in reversed(best[1])]):
            best = saved, runs
    return best[1], best[0]


def blend(rows: Rows, chosen: list[int], centres: list[int], owner: list[int]) -> Rows:
    """Centres mixed with the others of their clusters; `owner`: centre of each of `chosen`."""
    made = []
    for centre in centres:
        others = [
            rows[i] for i, mine in zip(chosen, owner, strict=True) if mine == centre and i != centre
        ]
        if not others:
            made.append(rows[centre])
            continue
        made.append([0.6 * a + 0.4 * b for a, b in zip(rows[centre], mean(others), strict=True)])
    return made


def by_loops(
    rows: Rows, score: list[float], grid: Grid, keep: int, tau: float, contextual: float
) -> dict[int, list[float]]:
    """The states that are left, by place."""
    inside = grid[1] * grid[2]
    still = alike(rows, grid, tau)
    runs, saved = cut(still, grid[0])
    retain = min(1.0, keep / (len(rows) - saved))
    groups: list[tuple[str, list[int], Rows]] = []
    for start, stop in runs:
        places = range(inside)
        static = [
            p for p in places if stop - start > 1 and all(f[p] for f in still[start : stop - 1])
        ]
        if static:
            means = [mean([rows[t * inside + p] for t in range(start, stop)]) for p in static]
            groups.append(("static", [start * inside + p for p in static], means))
        for t in range(start, stop):
            mine = [t * inside + p for p in places if p not in static]
            groups.append(("frame", mine, [rows[i] for i in mine]))
    counts = [
        round(len(mine) * retain) if kind == "static" else math.ceil(len(mine) * retain - 1e-9)
        for kind, mine, _ in groups
    ]
    while sum(counts) > keep:
        most = max(counts)
        counts[len(counts) - 1 - counts[::-1].index(most)] -= 1
    if not any(counts):
        counts[0] = 1
    left: dict[int, list[float]] = {}
    for (kind, mine, states), count in zip(groups, counts, strict=True):
        ranked = round(count * (1 - contextual)) if kind == "frame" else 0
        best = best_by_loops([score[i] for i in mine], ranked)
        left |= {mine[n]: states[n] for n in best}
        others = [n for n in range(len(mine)) if n not in best]
        clusters = min(count - ranked, len(others))
        if clusters > 0:
            centres, owner = peaks([states[n] for n in others], clusters, min(7, clusters))
            owned = [others[o] for o in owner]
            chosen = [others[c] for c in centres]
            for n, state in zip(chosen, blend(states, others, chosen, owned), strict=True):
                left[mine[n]] = state
    return left


@given(GRIDS, st.integers(0, 10**6), st.sampled_from([0.0, 0.5]), st.data())
@settings(deadline=None, max_examples=60)
def test_against_loops(grid: Grid, seed: int, contextual: float, data: st.DataObject) -> None:
    count = math.prod(grid)
    keep = data.draw(st.integers(1, count))
    tau = data.draw(st.sampled_from([0.5, 0.8, 0.95]))
    hidden = clip(grid, seed)
    score = torch.rand(2, count, generator=torch.Generator().manual_seed(seed))
    found = answer(hidden, score, grid, keep, tau=tau, contextual=contextual)
    if keep == count:
        assert not found.changes
        return
    for sample in range(2):
        rows = hidden[sample].double().tolist()
        want = by_loops(rows, score[sample].double().tolist(), grid, keep, tau, contextual)
        part = found.samples[sample]
        assert part.anchor is not None
        assert part.anchor[0].tolist() == sorted(want)
        states = part.apply(hidden[sample : sample + 1], torch.ones(1, count))[0]
        made = torch.tensor([want[place] for place in sorted(want)], dtype=torch.float32)
        torch.testing.assert_close(states, made, rtol=1e-4, atol=1e-5)


def test_a_static_video_becomes_one_frame_that_stands_for_all() -> None:
    hidden = torch.eye(9).expand(1, 4, -1, -1).flatten(1, 2)
    found = answer(hidden, torch.rand(1, 36), (4, 3, 3), 9)
    part = found.samples[0]
    assert part.anchor is not None
    assert part.anchor[0].tolist() == [*range(9)]
    assert part.sizes(torch.ones(1, 36)).tolist() == [[4.0] * 9]


def test_windows_without_anything_still_are_single_frames() -> None:
    found, saved = windows(torch.zeros(3, 5, dtype=torch.bool))
    assert [run.length for run in found] == [1, 1, 1, 1]
    assert saved == 0


@pytest.mark.parametrize("seed", range(12))
def test_inside_the_llm_what_is_dropped_goes_into_what_is_most_like_it(seed: int) -> None:
    torch.manual_seed(seed)
    hidden, score = torch.randn(2, 13, 4), torch.rand(2, 13)
    tokens = make_tokens(
        hidden, site=SITES["decoder"], signals={Signal.LAST_QUERY_ATTENTION: score}
    )
    found = HoliTom.from_params().reduce(tokens, budget(tokens, 4))
    states = found.apply(hidden, tokens.size)
    for sample in range(2):
        rows = hidden[sample].double().tolist()
        kept = sorted(best_by_loops(score[sample].tolist(), 4))
        left = {token: rows[token] for token in kept}
        for token in range(13):
            if token not in kept:
                likeness = [cosine(rows[token], rows[one]) for one in kept]
                goal = kept[best_by_loops(likeness, 1)[0]]
                left[goal] = [(a + b) / 2 for a, b in zip(left[goal], rows[token], strict=True)]
        assert found.anchor is not None
        assert found.anchor[sample].tolist() == kept
        want = torch.tensor([left[token] for token in kept], dtype=torch.float32)
        torch.testing.assert_close(states[sample], want)
