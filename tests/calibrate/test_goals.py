"""When a budget holds, and when its samples are too few to be sure of it."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from tests.judge.test_judge import entry, results, row
from tokenprune.lab.calibrate import Flops, Time, Within
from tokenprune.lab.calibrate.budgets import Budgets
from tokenprune.lab.calibrate.run import Calibration
from tokenprune.lab.calibrate.table import calibration_table, cautions, conclusion
from tokenprune.lab.judge import Result
from tokenprune.lab.measure.statistics import ENOUGH, Interval
from tokenprune.plan import load_plan


def answered(wrong: int) -> Result:
    """Forty pictures, one question each; dense is wrong on the first four."""
    return results(row(entry("fopru", 8), wrong, 1.0))[1][0]


def timed(batches: int) -> Result:
    found = answered(4)
    return replace(found, run=replace(found.run, wall=found.run.wall[:batches]))


@pytest.mark.parametrize("wrong", [4, 3])
def test_an_interval_without_losses_is_not_sure(wrong: int) -> None:
    """Resamples of answers that all agree agree too, however few they are."""
    found = answered(wrong)
    assert found.difference is not None
    assert found.difference.low >= 0
    assert Within(7).holds(found)
    assert not Within(7, sure=True).holds(found)
    assert Within(8, sure=True).holds(found)
    assert "up to 7.5 points can't be excluded" in Within(7).caution(found)
    assert not Within(7).caution(found).startswith("not sure")
    said = Within(7, sure=True).caution(found)
    assert said.startswith("not sure: with these 40 pictures")
    assert said.endswith("7 points take about 43 pictures")
    assert Within(0, sure=True).caution(found).endswith("(rule of three)")
    assert not Within(8, sure=True).caution(found)


def test_an_interval_with_losses_speaks_for_itself() -> None:
    found = answered(5)
    assert found.difference is not None
    low = -100 * found.difference.low
    assert Within(low, sure=True).holds(found)
    assert not Within(low - 0.1, sure=True).holds(found)
    assert not Within(low - 0.1, sure=True).caution(found)


@pytest.mark.parametrize("points", [3, 7, 29])
def test_a_loss_of_exactly_the_points_is_within_them(points: int) -> None:
    """100 * -0.07 is less than -7 in floating point."""
    low = Interval(-points / 100, -points / 100, 0.0)
    found = replace(answered(5), difference=low)
    assert Within(points).holds(found)
    assert Within(points, sure=True).holds(found)


def test_times_of_few_batches_are_not_sure() -> None:
    enough, few = timed(ENOUGH), timed(ENOUGH - 1)
    assert Time(0.5, sure=True).holds(enough)
    assert not Time(0.5, sure=True).caution(enough)
    assert Time(0.5).holds(few)
    assert not Time(0.5, sure=True).holds(few)
    assert Time(0.5, sure=True).caution(few).startswith("not sure: times of 5 batches have no 95 %")
    assert Time(0.5).caution(timed(1)).startswith("times of one batch have no 95 %")
    assert not Flops(0.5).caution(timed(1))


def test_warnings_of_results_and_goals_stand_below_the_table() -> None:
    plan = load_plan({"stages": [{"at": "pre_llm", "strategy": "fopru", "keep": 8}]})
    tried = {4: answered(20), 8: answered(4)}
    found = Calibration(Within(7), tried, Budgets(plan, 0), 8)
    said = [str(line) for line in cautions(found)]
    assert len([line for line in said if "too few samples" in line]) == 1
    assert len([line for line in said if "rule of three" in line]) == 1
    console = Console(width=80, record=True, file=StringIO())
    console.print(calibration_table(found, console.width))
    rows = [line.split() for line in console.export_text().splitlines() if "│" in line]
    assert [(row[1], row[-2]) for row in rows] == [("4", "no"), ("8", "yes")]
    assert "+0.0 to +0.0; down to -7.5 can't be excluded" in conclusion(found)


@pytest.mark.parametrize(
    "shares", [("0.968", "0.972"), ("0.9696", "0.9703"), ("0.97000000", "0.97000004")]
)
def test_operations_beside_the_limit_show_their_side_of_it(shares: tuple[str, str]) -> None:
    plan = load_plan({"stages": [{"at": "pre_llm", "strategy": "fopru", "keep": 8}]})
    tried = {n: replace(answered(4), flops_ratio=float(one)) for n, one in enumerate(shares, 8)}
    found = Calibration(Flops(0.97), tried, Budgets(plan, 0), 8)
    console = Console(width=80, record=True, file=StringIO())
    console.print(calibration_table(found, console.width))
    rows = [line.split() for line in console.export_text().splitlines() if "│" in line]
    assert [([one in row for one in shares], row[-2]) for row in rows] == [
        ([True, False], "yes"),
        ([False, True], "no"),
    ]
    assert f"FLOPs {shares[0]} and time" in conclusion(found)


@pytest.mark.parametrize("values", [("0.496", "0.504"), ("0.4998", "0.5001")])
def test_times_beside_the_limit_show_their_side_of_it(values: tuple[str, str]) -> None:
    plan = load_plan({"stages": [{"at": "pre_llm", "strategy": "fopru", "keep": 8}]})
    tried = {
        n: replace(answered(4), total=Interval(float(one) - 0.1, float(one) - 0.2, float(one)))
        for n, one in enumerate(values, 8)
    }
    found = Calibration(Time(0.5, sure=True), tried, Budgets(plan, 0), 8)
    console = Console(width=80, record=True, file=StringIO())
    console.print(calibration_table(found, console.width))
    rows = [line.split() for line in console.export_text().splitlines() if "│" in line]
    assert [([f"{one}]" in row for one in values], row[-2]) for row in rows] == [
        ([True, False], "yes"),
        ([False, True], "no"),
    ]


def test_losses_beside_the_limit_show_their_side_of_it() -> None:
    plan = load_plan({"stages": [{"at": "pre_llm", "strategy": "fopru", "keep": 8}]})
    lost = [Interval(-loss, -loss, -loss) for loss in (0.0103, 0.0098)]
    tried = {n: replace(answered(4), difference=one) for n, one in enumerate(lost, 8)}
    console = Console(width=80, record=True, file=StringIO())
    console.print(calibration_table(Calibration(Within(1), tried, Budgets(plan, 0), 9), 80))
    said = console.export_text()
    assert "-1.03" in said
    assert "-0.98" in said
    assert "-1.0 " not in said
