"""`sttm` against a tree of boxes, in loops."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.sttm import Sttm

from tests.strategies.cases import SITES, cosine, make_tokens
from tests.strategies.loops import mean
from tests.strategies.videos import Grid, clip
from tokenprune.errors import BudgetError
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens

Rows = list[list[float]]
GRIDS = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))


@dataclass(eq=False)
class Node:
    """A block of a frame.

    Attributes:
        top, left, bottom, right: its rows and columns, the last ones excluded.
        states: mean of those of its parts, or of its token.
        tokens: what it holds.
        parts: up to four blocks of which it is made.
    """

    top: int
    left: int
    bottom: int
    right: int
    states: list[float]
    tokens: list[int]
    parts: list[Node] = field(default_factory=list)

    def holds(self, other: Node) -> bool:
        rows = self.top <= other.top and other.bottom <= self.bottom
        return rows and self.left <= other.left and other.right <= self.right


Level = list[list[Node | None]]


def ends(count: int) -> list[list[int]]:
    """Which rows go together: an odd one, the first, stands for itself."""
    odd = count % 2
    return [[0]] * odd + [[at, at + 1] for at in range(odd, count, 2)]


def above(level: Level) -> Level:
    made: Level = []
    for rows in ends(len(level)):
        made.append([])
        for columns in ends(len(level[0])):
            block = [level[row][column] for row in rows for column in columns]
            parts = [part for part in block if part is not None]
            if not parts:
                made[-1].append(None)
                continue
            made[-1].append(
                Node(
                    min(part.top for part in parts),
                    min(part.left for part in parts),
                    max(part.bottom for part in parts),
                    max(part.right for part in parts),
                    mean([part.states for part in parts]),
                    sorted(token for part in parts for token in part.tokens),
                    parts,
                )
            )
    return made


def cut(node: Node, tau: float) -> list[Node]:
    """The node, or those that its parts are cut into."""
    if all(cosine(part.states, node.states) >= tau for part in node.parts):
        return [node]
    return [found for part in node.parts for found in cut(part, tau)]


def tree(
    rows: Rows, places: list[list[int]], frame: int, grid: Grid, tau: float, root: int
) -> list[Node]:
    """The nodes of a frame."""
    _, high, wide = grid
    level: Level = [[None] * wide for _ in range(high)]
    for token, (t, row, column) in enumerate(places):
        if t == frame:
            level[row][column] = Node(row, column, row + 1, column + 1, rows[token], [token])
    levels = [level]
    while not (2 in (len(level), len(level[0])) or len(level) == len(level[0]) == 1):
        level = above(level)
        levels.append(level)
    begin = levels[max(0, len(levels) - 1 - root)]
    return [found for line in begin for node in line if node for found in cut(node, tau)]


def by_loops(
    rows: Rows, places: list[list[int]], grid: Grid, params: Sttm
) -> tuple[list[int], list[int], Rows]:
    """Places, the slot of every token, and new tokens."""
    tau, over, root = params.params.tau_space, params.params.tau_time, params.params.root
    frames = [tree(rows, places, t, grid, tau, root) for t in range(grid[0])]
    groups = [[node] for frame in frames for node in frame]
    for before, after in itertools.pairwise(frames):
        for one in before:
            for other in after:
                shared = {tuple(places[token][1:]) for token in one.tokens}
                shared &= {tuple(places[token][1:]) for token in other.tokens}
                nested = one.holds(other) or other.holds(one)
                assert bool(shared) == nested or len(places) < math.prod(grid)
                if over is None or not shared or cosine(one.states, other.states) < over:
                    continue
                mine = next(group for group in groups if one in group)
                its = next(group for group in groups if other in group)
                if mine is not its:
                    groups.remove(its)
                    mine += its
    tokens = [sorted(token for node in group for token in node.tokens) for group in groups]
    order = sorted(range(len(groups)), key=lambda number: tokens[number][0])
    slots = [0] * len(rows)
    for slot, number in enumerate(order):
        for token in tokens[number]:
            slots[token] = slot
    made = [mean([node.states for node in groups[number]]) for number in order]
    return [tokens[number][0] for number in order], slots, made


def shown(grid: Grid, seed: int, index: list[int] | None = None) -> Tokens:
    hidden = clip(grid, seed)
    if index is None:
        return make_tokens(hidden, site=SITES["decoder"], grid=grid)
    left = torch.tensor(index).expand(len(hidden), -1)
    return make_tokens(hidden[:, index], site=SITES["decoder"], grid=grid, index=left)


def answered(tokens: Tokens, strategy: Sttm) -> None:
    """That the answer is the oracle's."""
    answer = strategy.reduce(tokens, Budget(tokens.count, tokens.count, False))
    for sample, one in enumerate(answer.samples):
        rows = tokens.hidden[sample].double().tolist()
        places = tokens.position[sample].tolist()
        first, slots, made = by_loops(rows, places, tokens.grid, strategy)
        assert one.anchor is not None
        assert one.slot is not None
        assert one.anchor[0].tolist() == first
        assert one.slot[0].tolist() == slots
        torch.testing.assert_close(one.created, torch.tensor([made]), rtol=1e-4, atol=1e-4)


@given(
    GRIDS,
    st.integers(0, 10**6),
    st.sampled_from([-1.0, 0.3, 0.6, 0.85]),
    st.sampled_from([None, 0.5, 0.8]),
    st.integers(0, 3),
)
@settings(deadline=None, max_examples=60)
def test_the_steps_of_the_page(
    grid: Grid, seed: int, space: float, time: float | None, root: int
) -> None:
    answered(shown(grid, seed), Sttm.from_params(tau_space=space, tau_time=time, root=root))


@given(st.integers(0, 10**6), st.sampled_from([None, 0.5]), st.data())
@settings(deadline=None, max_examples=20)
def test_blocks_are_of_what_earlier_stages_left(
    seed: int, time: float | None, data: st.DataObject
) -> None:
    grid = (2, 6, 5)
    every = range(math.prod(grid))
    left = sorted(data.draw(st.sets(st.sampled_from(every), min_size=1)))
    answered(shown(grid, seed, left), Sttm.from_params(tau_space=0.5, tau_time=time, root=0))


def test_a_still_video_of_one_colour_is_its_roots() -> None:
    grid = (3, 8, 8)
    hidden = torch.ones(1, math.prod(grid), 4)
    tokens = make_tokens(hidden, site=SITES["decoder"], grid=grid)
    for root, left in ((0, 4), (1, 16), (2, 64), (5, 64)):
        answer = Sttm.from_params(root=root).reduce(tokens, Budget(192, 192, False))
        assert [one.length for one in answer.samples] == [left]


def test_what_moves_stays_in_single_tokens_and_the_rest_in_blocks() -> None:
    grid = (2, 8, 8)
    hidden = torch.ones(1, 2, 8, 8, 4)
    hidden[0, 1, 0, 0] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    tokens = make_tokens(hidden.flatten(1, 3), site=SITES["decoder"], grid=grid)
    answer = Sttm.from_params(root=1).reduce(tokens, Budget(128, 128, False))
    # the second frame splits one of 16 roots, of which three quarters are as before
    assert [one.length for one in answer.samples] == [17]
    assert answer.samples[0].anchor is not None
    assert answer.samples[0].anchor[0].tolist()[-1] == 64


def test_a_budget_is_refused_with_the_way_out() -> None:
    tokens = shown((2, 2, 2), 0)
    with pytest.raises(BudgetError, match="as its thresholds tell blocks apart"):
        Sttm.from_params().check(SITES["decoder"], Budget(8, 4, True), tokens.grid)
    Sttm.from_params().check(SITES["decoder"], Budget(8, 8, False), tokens.grid)
