"""`vidcom2` against loops over the steps of its page."""

from __future__ import annotations

import math

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenprune_strategies.vidcom2 import VidCom2

from tests.strategies.cases import best_by_loops, budget
from tests.strategies.loops import mean
from tests.strategies.videos import GRIDS, Grid, clip, frames_of, shown

Rows = list[list[float]]


def kept(hidden: torch.Tensor, grid: Grid, keep: int) -> list[list[int]]:
    tokens = shown(hidden, grid)
    found = VidCom2.from_params().reduce(tokens, budget(tokens, keep)).anchor
    assert found is not None
    return found.tolist()


def normed(rows: Rows) -> Rows:
    """The calm half of the channels, tokens of length one."""
    middle = mean(rows)
    varies = [
        sum((row[c] - middle[c]) ** 2 for row in rows) / len(rows) for c in range(len(middle))
    ]
    chosen = best_by_loops([-v for v in varies], len(middle) // 2)
    picked = [[row[c] for c in chosen] for row in rows]
    return [[x / math.hypot(*row) for x in row] for row in picked]


def near(row: list[float], centre: list[float]) -> float:
    square = sum((a - b) ** 2 for a, b in zip(row, centre, strict=True))
    return sum(math.exp(-square / (2 * 2.0**p)) for p in range(-3, 2))


def targets(rows: Rows, grid: Grid, ratio: float) -> list[float]:
    """Tokens that every frame would get."""
    video = normed(rows)
    centre = mean(video)
    unlike = [-mean([[near(row, centre)] for row in frame])[0] for frame in frames_of(video, grid)]
    power = [math.exp((u - max(unlike)) / 0.01) for u in unlike]
    share = [p / sum(power) for p in power]
    scale = [min(1.0, ratio * (1 + q - sum(share) / len(share))) for q in share]
    return [one * grid[1] * grid[2] for one in scale]


def ordered(rows: Rows, grid: Grid) -> list[list[int]]:
    """The tokens of every frame, the least alike first."""
    video = normed(rows)
    centre, found = mean(video), list[list[int]]()
    for number, frame in enumerate(frames_of(video, grid)):
        own = mean(frame)
        usual = [near(row, centre) + near(row, own) for row in frame]
        first = number * len(frame)
        found.append([first + n for n in best_by_loops([-u for u in usual], len(frame))])
    return found


@given(GRIDS, st.integers(0, 10**6), st.data())
@settings(deadline=None, max_examples=50)
def test_the_codes_choice_but_for_rounding(grid: Grid, seed: int, data: st.DataObject) -> None:
    count = math.prod(grid)
    assume(count > 2)  # two tokens are equally like their mean, but for rounding
    keep = data.draw(st.integers(1, count))
    hidden = clip(grid, seed)
    found = kept(hidden, grid, keep)
    for sample in range(2):
        rows = hidden[sample].double().tolist()
        order, target = ordered(rows, grid), targets(rows, grid, keep / count)
        mine = [len(set(found[sample]) & {*frame}) for frame in order]
        # of every frame its least alike tokens
        assert found[sample] == sorted(t for f, n in zip(order, mine, strict=True) for t in f[:n])
        assert len(found[sample]) == keep
        # exactly as many too few or too many as the code's rounding leaves, and on one side only;
        # a target at a half may be rounded either way
        least, most = ([max(1, round(one + slack)) for one in target] for slack in (-1e-3, 1e-3))
        if keep >= grid[0]:
            more = all(n >= low for n, low in zip(mine, least, strict=True))
            assert more or all(n <= high for n, high in zip(mine, most, strict=True))
            assert all(n >= 1 for n in mine)


def test_with_fewer_tokens_than_frames_the_frames_of_the_largest_shares_keep_theirs() -> None:
    grid, keep = (16, 2, 2), 6
    for seed in range(20):
        hidden = clip(grid, seed)
        for sample, found in enumerate(kept(hidden, grid, keep)):
            rows = hidden[sample].double().tolist()
            share = targets(rows, grid, keep / math.prod(grid))
            order = ordered(rows, grid)
            edge = sorted(share, reverse=True)[keep - 1]
            for frame, tokens in enumerate(order):
                if abs(share[frame] - edge) > 1e-4:
                    assert (tokens[0] in found) == (share[frame] > edge)
                assert not set(tokens[1:]) & set(found)


def test_a_frame_that_stands_out_gets_more() -> None:
    torch.manual_seed(0)
    frames = torch.randn(2, 8)[[0, 0, 0, 0, 1], None]
    hidden = (frames + 0.1 * torch.randn(5, 16, 8)).flatten(0, 1)[None]
    (found,) = kept(hidden, (5, 4, 4), 20)
    counts = [sum(frame * 16 <= token < frame * 16 + 16 for token in found) for frame in range(5)]
    assert counts[4] > max(counts[:4])
    assert min(counts) >= 1
