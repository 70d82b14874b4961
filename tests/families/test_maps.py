"""Pictures that a model sees in several maps, for strategies that ask for places on a grid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tokenprune
from tests.families.calls import case_of, logits
from tests.families.plans import plan
from tests.plugin import registering
from tokenprune import Budget, PruningStrategy, Reduction, StrategyParams, Tokens
from tokenprune.engine.maps import Maps
from tokenprune.interface.placement import Decoder, PreLlm
from tokenprune.interface.trace import ImageTrace, Shapes
from tokenprune.plugins.host import register_plugin

NEXT: list[Shapes] = [((4, 4), (4, 4)), ((4, 4), (6, 8))]
TILES: list[Shapes] = [((3, 3),), ((3, 3),) * 3]


class FirstRows(PruningStrategy[StrategyParams]):
    """Keep the upper row of every map, and fill up with the first of the others."""

    name = "t-first-rows"
    stages = (PreLlm(maps=True), Decoder(layer=1, maps=True))
    seen: ClassVar[list[Tokens]] = []

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        self.seen.append(tokens)
        below = tokens.position[..., 1] > 0
        index = below.int().argsort(dim=1, stable=True)[:, : budget.keep].sort(dim=1).values
        return Reduction.keep(index, tokens.count)


class InLine(FirstRows):
    """The same, without asking for maps."""

    name = "t-in-line"
    stages = (PreLlm(), Decoder(layer=1))


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    FirstRows.seen.clear()
    with register_plugin(registering(FirstRows, InLine), "family-maps"):
        yield


def places(shapes: Shapes, first: int = 0) -> list[tuple[int, int, int]]:
    """(map, row, column) of every unit, in the order in which a picture shows them."""
    return [
        (first + number, row, column)
        for number, (rows, columns) in enumerate(shapes)
        for row in range(rows)
        for column in range(columns)
    ]


def kept(name: str, at: str, strategy: str, keep: float, scene: str) -> list[ImageTrace]:
    case = case_of(name, scene)
    stage = {"at": at, "strategy": strategy, "keep": keep}
    with tokenprune.attach(case.build(), plan(stage)) as handle:
        logits(handle.model, case.inputs(scene))
        return handle.trace.images


@pytest.mark.parametrize(
    ("name", "shapes"), [("llava_next", NEXT), ("internvl", TILES), ("idefics3", TILES)]
)
def test_every_map_is_a_frame(name: str, shapes: list[Shapes]) -> None:
    images = kept(name, "pre_llm", "t-first-rows", 0.5, "two_sizes")
    for picture, own in enumerate(shapes):
        mine = next(one for one in FirstRows.seen if one.count == len(places(own)))
        high, wide = max(rows for rows, _ in own), max(columns for _, columns in own)
        assert mine.grid == (len(own), high, wide), picture
        assert [tuple(place) for place in mine.position[0].tolist()] == places(own)
        upper = [at for at, (_, row, _) in enumerate(places(own)) if row == 0]
        assert set(upper) <= set(images[picture].steps[-1].anchor.tolist())


def test_a_strategy_that_does_not_ask_gets_a_line() -> None:
    kept("llava_next", "pre_llm", "t-in-line", 0.5, "two_sizes")
    assert [one.grid for one in FirstRows.seen] == [(1, 1, 32), (1, 1, 64)]


def test_one_map_is_a_plain_picture() -> None:
    kept("llava_onevision", "pre_llm", "t-first-rows", 0.5, "several")
    assert (1, 5, 5) in {one.grid for one in FirstRows.seen}


def test_inside_the_llm_the_maps_of_all_pictures_are_frames() -> None:
    images = kept("llava_next", "decoder", "t-first-rows", 0.5, "several")
    two = next(one for one in FirstRows.seen if one.count == 96)
    assert two.grid == (4, 6, 8)
    assert [tuple(place) for place in two.position[0].tolist()] == [
        *places(NEXT[0]),
        *places(NEXT[1], 2),
    ]
    upper = [at for at, (_, row, _) in enumerate(places(NEXT[1])) if row == 0]
    assert set(upper) <= set(images[1].steps[-1].anchor.tolist())
    FirstRows.seen.clear()
    kept("llava_next", "decoder", "t-in-line", 0.5, "several")
    assert next(one for one in FirstRows.seen if one.count == 96).grid == (2, 1, 64)


def test_windows_of_a_map_are_pooled_where_they_stand() -> None:
    """Of 4x4 and 6x8 units, windows of two by two leave 4 + 12."""
    case = case_of("llava_next")
    stage = {"at": "pre_llm", "strategy": "pool"}
    with tokenprune.attach(case.build(), plan(stage)) as handle:
        logits(handle.model, case.inputs("two_sizes"))
        image = handle.trace.images[1]
    windows: dict[tuple[int, int, int], set[int]] = {}
    for unit, (number, row, column) in enumerate(places(NEXT[1])):
        windows.setdefault((number, row // 2, column // 2), set()).add(unit)
    groups: dict[int, set[int]] = {}
    for unit, slot in enumerate(image.steps[-1].assignment.tolist()):
        groups.setdefault(slot, set()).add(unit)
    assert image.kept == len(windows) == 16
    assert sorted(map(sorted, groups.values())) == sorted(map(sorted, windows.values()))


@pytest.mark.parametrize("strategy", ["hiprune", "fopru", "vscan"])
def test_methods_that_read_places_run_on_tiles(strategy: str) -> None:
    params = {"fopru": {"strategy": "row"}}.get(strategy, {})
    stage = {"at": "pre_llm", "strategy": strategy, "keep": 12, "params": params}
    case = case_of("llava_next")
    with tokenprune.attach(case.build(), plan(stage)) as handle:
        logits(handle.model, case.inputs("several"))
        assert [image.kept for image in handle.trace.images] == [12, 12, 12]


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=5))
def test_places_and_the_line_are_each_other_s_way_back(shapes: list[tuple[int, int]]) -> None:
    maps = Maps(tuple(shapes))
    line = torch.arange(len(places(maps.shapes)))
    raster = maps.raster(line)
    _, height, width = maps.grid
    told = [(n * height + row) * width + column for n, row, column in places(maps.shapes)]
    assert raster.tolist() == told
    assert maps.line(raster).tolist() == line.tolist()
