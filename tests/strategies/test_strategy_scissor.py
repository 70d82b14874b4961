"""`scissor` against loops over the steps of its page."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.scissor import Scissor, components

from tests.strategies.cases import cosine
from tests.strategies.loops import add, mean
from tests.strategies.videos import GRIDS, Grid, clip, frames_of, shown
from tokenprune.interface.strategy import Budget

Rows = list[list[float]]


def searched(rows: Rows, tau: float) -> list[list[int]]:
    """Connected components by a search from every token that isn't reached yet."""
    found: list[list[int]] = []
    for start in range(len(rows)):
        if any(start in one for one in found):
            continue
        reached, waiting = {start}, [start]
        while waiting:
            here = waiting.pop()
            near = {j for j, row in enumerate(rows) if cosine(rows[here], row) > tau} - reached
            reached |= near
            waiting += near
        found.append(sorted(reached))
    return found


def by_loops(rows: Rows, grid: Grid, tau: float, most: int) -> tuple[list[int], list[int], Rows]:
    """Places, the slot of every token, and new tokens."""
    inside: list[list[int]] = []
    for number, frame in enumerate(frames_of(rows, grid)):
        first = number * len(frame)
        inside += [[first + token for token in one] for one in searched(frame, tau)]
    groups = [mean([rows[token] for token in one]) for one in inside]
    over = searched(groups, tau)
    tokens = [sorted(token for group in one for token in inside[group]) for one in over]
    order = sorted(range(len(over)), key=lambda n: (-len(tokens[n]), n))[:most]
    kept = sorted(order)
    centres = [mean([groups[group] for group in over[n]]) for n in kept]
    slots = [max(range(len(kept)), key=lambda n: (cosine(row, centres[n]), -n)) for row in rows]
    made: Rows = []
    for n, centre in enumerate(centres):
        mine = [row for row, slot in zip(rows, slots, strict=True) if slot == n]
        total = centre
        for row in mine:
            total = add(total, row)
        made.append([x / (1 + len(mine)) for x in total])
    return [tokens[n][0] for n in kept], slots, made


@given(GRIDS, st.integers(0, 10**6), st.sampled_from([0.5, 0.8, 0.95]), st.data())
@settings(deadline=None, max_examples=40)
def test_the_steps_of_the_page(grid: Grid, seed: int, tau: float, data: st.DataObject) -> None:
    count = math.prod(grid)
    tokens = shown(clip(grid, seed), grid)
    keep = data.draw(st.none() | st.integers(1, count))
    if keep == count:
        return
    budget = Budget(count, count if keep is None else keep, keep is not None)
    answer = Scissor.from_params(tau=tau).reduce(tokens, budget)
    for sample, one in enumerate(answer.samples):
        rows = tokens.hidden[sample].double().tolist()
        places, slots, made = by_loops(rows, grid, tau, count if keep is None else keep)
        assert one.anchor is not None
        assert one.slot is not None
        assert one.anchor[0].tolist() == places
        assert one.slot[0].tolist() == slots
        torch.testing.assert_close(one.created, torch.tensor([made]), rtol=1e-4, atol=1e-4)


@given(st.integers(1, 20), st.floats(0, 0.3), st.integers(0, 10**6))
def test_components_are_those_of_a_search(count: int, density: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    alike = torch.rand(count, count, generator=generator) < density
    alike = alike | alike.T
    label = components(alike).tolist()
    wanted: list[int] = [-1] * count
    for start in range(count):
        if wanted[start] < 0:
            waiting, number = [start], max(wanted) + 1
            while waiting:
                here = waiting.pop()
                wanted[here] = number
                waiting += [j for j in range(count) if alike[here, j] and wanted[j] < 0]
    assert label == wanted


def test_a_long_chain_is_one_component() -> None:
    place = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    near = (place[:, None] - place).abs() == 1
    assert components(near).tolist() == [0] * 300


@pytest.mark.parametrize(("params", "left"), [({"tau": 1.0}, 9), ({"tau": -1.0}, 1)])
def test_the_threshold_sets_the_number(params: dict[str, Any], left: int) -> None:
    tokens = shown(torch.randn(1, 9, 4).abs() + 0.1, (1, 3, 3))
    answer = Scissor.from_params(**params).reduce(tokens, Budget(9, 9, False))
    assert [one.length for one in answer.samples] == [left]
