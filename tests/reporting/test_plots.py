"""Plots show true values, join the budgets of a method, and can be read without being seen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.made import record
from tokenprune.lab.judge import Result
from tokenprune.lab.report.families import COSTS, cost_of, families
from tokenprune.lab.report.figures import draw, write_figures
from tokenprune.lab.report.labels import LETTER, placed
from tokenprune.lab.report.plots import LEFT, RIGHT, WIDTH, scatter
from tokenprune.lab.report.points import Point, doublings, in_words, lines, point
from tokenprune.lab.studies.summary import summarise

FEW, SOME = (True, False) * 3, (True, True, False) * 2
#: Three methods at exactly the same costs, as budgets in tokens make them, at two budgets.
GROUPS = summarise(
    [
        record("dense", None, time=1.0),
        *(
            record(f"{name} {keep}", name, right, keep=keep)
            for name, right in (("random", FEW), ("fopru", SOME), ("uniform", SOME))
            for keep in (8, 4)
        ),
    ]
)
ROWS = GROUPS[0].rows
KNOWN = families(GROUPS)


def rows(*names: str) -> list[Result]:
    return [row for row in ROWS if row.name in names]


@pytest.mark.parametrize("cost", COSTS)
def test_markers_of_the_page_stand_at_their_values(cost: str) -> None:
    points = [point(row, cost) for row in ROWS]
    drawn = scatter(points, KNOWN, cost)
    found = [float(x) for x in re.findall(r"translate\(([\d.]+) [\d.]+\) scale", drawn)]
    right = 1.06 * max(cost_of(row, cost) for row in ROWS)
    expected = [LEFT + cost_of(row, cost) / right * (WIDTH - LEFT - RIGHT) for row in ROWS]
    assert found == pytest.approx(expected, abs=0.051)


def test_points_of_figures_stand_at_their_values() -> None:
    points = [point(row, "tokens") for row in ROWS]
    axes = draw(points, KNOWN, "tokens").axes[0]
    marked = {line.get_label(): line for line in axes.get_lines() if line.get_label() in KNOWN}
    for name in KNOWN:
        mine = [row for row in points if row.family == name]
        assert [*marked[name].get_xdata()] == [one.x for one in mine]
        assert [*marked[name].get_ydata()] == pytest.approx([100 * one.y for one in mine])
    assert [*marked["fopru"].get_xdata()] == [*marked["uniform"].get_xdata()] == [8.0, 4.0]


def test_every_interval_is_drawn_with_its_ends() -> None:
    points = [point(row, "tokens") for row in ROWS]
    drawn = draw(points, KNOWN, "tokens").axes[0].get_lines()
    bars = [tuple(line.get_ydata()) for line in drawn if len(set(line.get_xdata())) == 1]
    for one in points:
        ends = (100 * one.low, 100 * one.high)
        assert any(bar == pytest.approx(ends) for bar in bars)


def test_budgets_of_a_method_are_joined_by_cost_and_others_are_not() -> None:
    found = lines([point(row, "tokens") for row in ROWS])
    assert [name for name, _ in found] == ["random", "fopru", "uniform"]
    assert found[1][1] == [(4.0, pytest.approx(4 / 6)), (8.0, pytest.approx(4 / 6))]
    assert lines([point(row, "tokens") for row in rows("dense", "random 8", "fopru 8")]) == []


def test_seeds_of_a_budget_count_as_their_mean_and_parameters_make_lines_of_their_own() -> None:
    plan: dict[str, Any] = record("a", "fopru").identity["plan"]
    stage = plan["stages"][0]
    made = [record("dense", None)]
    for keep in (8, 4):
        for seed, right in ((0, FEW), (1, SOME)):
            changed = {**plan, "seed": seed, "stages": [{**stage, "keep": keep}]}
            made.append(record(f"{keep} {seed}", "fopru", right, keep=keep, plan=changed))
        other = {**plan, "stages": [{**stage, "keep": keep, "params": {"mode": "row"}}]}
        made.append(record(f"{keep} row", "fopru", SOME, keep=keep, plan=other))
    points = [point(row, "tokens") for row in summarise(made)[0].rows]
    (_, several), (_, by_row) = lines(points)
    assert several == [(4.0, pytest.approx(3.5 / 6)), (8.0, pytest.approx(3.5 / 6))]
    assert by_row == [(4.0, pytest.approx(4 / 6)), (8.0, pytest.approx(4 / 6))]


def test_labels_keep_clear_of_markers_and_of_each_other() -> None:
    points = [(0.0, 0.0), (4.0, 2.0), (8.0, 0.0), (100.0, 0.0), (101.0, 1.0)]
    texts = ["64", "32", "16", "8", "8"]
    found = placed(points, texts, 9)
    assert found[4] is None, "the same text once"
    boxes = [
        (x - LETTER * 4.5 * len(text), y - 4.5, x + LETTER * 4.5 * len(text), y + 4.5)
        for (x, y), text in zip(found[:4], texts, strict=False)  # type: ignore[misc]
    ]
    for number, one in enumerate(boxes):
        for other in boxes[:number]:
            apart = one[0] >= other[2] or other[0] >= one[2]
            assert apart or one[1] >= other[3] or other[1] >= one[3]
        for x, y in points:
            assert not (one[0] < x < one[2] and one[1] < y < one[3])
    assert placed([(0.0, 0.0)], [""], 9) == [None]


def test_a_plot_can_be_read_without_being_seen(tmp_path: Path) -> None:
    points = [point(row, "tokens") for row in ROWS]
    told = in_words(points, "tokens")
    assert told.startswith("Accuracy over visual tokens per image. ")
    assert "random: keep 4: 50.0 % (" in told
    assert re.search(
        r'role="img" aria-label="Accuracy over visual', scatter(points, KNOWN, "tokens")
    )
    files = write_figures(GROUPS, tmp_path)
    assert len(files) == 9
    for form in ("svg", "png"):
        (tokens,) = tmp_path.glob(f"*-tokens.{form}")
        assert b"random: keep 4: 50.0 %" in tokens.read_bytes()


def test_budgets_far_apart_have_a_logarithmic_axis() -> None:
    points = [Point(x, 0.5, 0.4, 0.6, "dense", "") for x in (4.0, 8.0, 16.0, 196.0)]
    assert doublings(points, "tokens") == [4, 8, 16, 32, 64, 128, 256]
    drawn = scatter(points, ["dense"], "tokens")
    found = [float(x) for x in re.findall(r"translate\(([\d.]+) [\d.]+\) scale", drawn)]
    assert found[1] - found[0] == pytest.approx(found[2] - found[1], abs=0.11)
    axes = draw(points, ["dense"], "tokens").axes[0]
    assert axes.get_xscale() == "log"
    assert [*axes.get_lines()[0].get_xdata()] == [4.0, 8.0, 16.0, 196.0]
    assert doublings(points, "flops") == []
    assert doublings(points[1:3], "tokens") == []
