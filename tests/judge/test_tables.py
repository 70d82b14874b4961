"""The same results in terminals, as Markdown and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from tests.reporting.made import record
from tokenprune.lab.judge.columns import (
    P_VALUE,
    POINTS,
    RESULTS,
    SHARE,
    Column,
    brief_stages,
    stage_columns,
)
from tokenprune.lab.judge.result import Result
from tokenprune.lab.judge.tables import MIDDLE, WIDE, csv_table, markdown_table, terminal_tables
from tokenprune.lab.measure.statistics import Interval
from tokenprune.lab.studies.store import Record
from tokenprune.lab.studies.summary import lines, summarise

GROUPS = summarise(
    [
        record("dense", None, time=1.0),
        record("random", "random", (True, False) * 3),
        record("[bold]ours", "uniform", (False, False, True, True, True, True)),
    ]
)


def printed(results: Sequence[Result], width: int) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in terminal_tables("title", results, width):
        console.print(table)
    return console.export_text()


def test_people_and_programs_read_the_same_numbers() -> None:
    rows = list(csv.DictReader(csv_table(lines(GROUPS)).splitlines()))
    heading, _, *shown = (
        [cell.strip() for cell in line.strip("| ").split(" |")]
        for line in markdown_table(lines(GROUPS)).splitlines()
    )
    assert [row["plan"] for row in rows] == ["dense", "random", "[bold]ours"]
    at = heading.index("vs random, points")
    assert [bool(cells[at]) for cells in shown] == [False, False, True]
    value, low, high = shown[2][at].replace("\\[", "").replace("\\]", "").split()
    theirs = [100 * float(rows[2][f"vs random{end}"]) for end in ("", " low", " high")]
    assert [float(value), float(low), float(high)] == pytest.approx(theirs, abs=0.051)
    kept = heading.index("of dense, %")
    assert float(shown[1][kept].split()[0]) == pytest.approx(100 * 3 / 4)
    assert float(rows[1]["of dense"]) == pytest.approx(3 / 4)


def test_markdown_has_every_column_of_the_terminals_table() -> None:
    (table,) = terminal_tables("title", GROUPS[0].rows, WIDE)
    written = markdown_table(lines(GROUPS)).splitlines()
    heading, _, *shown = (
        [cell.strip() for cell in line.strip("| ").split("|")] for line in written
    )
    assert {str(column.header).replace("\n", " ") for column in table.columns} <= set(heading)
    assert [cells[heading.index("keep")] for cells in shown] == ["all", "8", "8"]
    assert {"encoder out", "LLM in", "LLM mean"} <= set(heading)
    assert [cells[heading.index("LLM in")] for cells in shown] == ["16", "8", "8"]


def test_markdown_of_encoders_has_their_column() -> None:
    rows = [record("dense", None), record("random", "random")]
    groups = summarise([replace(row, result=_of_an_encoder(row)) for row in rows])
    assert "| patches left |" in markdown_table(lines(groups)).splitlines()[0]


def _of_an_encoder(row: Record) -> dict[str, Any]:
    return {**row.result, "tokens": {"patches": 16.0, "encoder": row.result["tokens"]["llm"]}}


def test_a_small_p_value_is_no_zero() -> None:
    assert [P_VALUE.shown(value) for value in (1.3e-12, 0.00099, 0.001, 0.04)] == [
        "< 0.001",
        "< 0.001",
        "0.001",
        "0.040",
    ]
    rows = [record("dense", None, [True] * 6), record("bad", "random", [False] * 6)]
    many = [{**row.result, "samples": [*row.result["samples"]] * 10} for row in rows]
    groups = summarise([replace(row, result=ten) for row, ten in zip(rows, many, strict=True)])
    assert (groups[0].rows[1].mcnemar or 1) < 1e-12
    assert "| < 0.001 |" in markdown_table(lines(groups))
    *_, written = csv.DictReader(csv_table(lines(groups)).splitlines())
    assert 0 < float(written["McNemar p"]) < 1e-12


def test_an_interval_has_its_ends_in_brackets_or_in_columns_of_their_own() -> None:
    given = Interval(0.25, 0.125, 0.5)
    result = GROUPS[0].rows[0]
    share = Column("share", lambda _: given, SHARE, ("low", "high"))
    assert share.shown(result) == "25.0 [12.5 50.0]"
    assert share.shown(result, brief=True) == "25.0"
    assert share.cells(result) == ["0.2500", "0.1250", "0.5000"]
    assert share.headings == ["share", "low", "high"]
    none = Column("share", lambda _: Interval(*[float("nan")] * 3), SHARE, ("low", "high"))
    assert none.shown(result) == none.shown(result, brief=True) == "-"
    alone = Column("share", lambda _: Interval(0.5, *[float("nan")] * 2), SHARE, ("low", "high"))
    assert (alone.shown(result), alone.cells(result)) == ("50.0", ["0.5000", "", ""])
    assert Column("number", lambda _: float("nan")).shown(result) == "-"
    points = Column("points", lambda _: None, POINTS, ("low", "high"))
    assert (points.shown(result), points.cells(result)) == ("", ["", "", ""])


def test_dense_is_not_compared_with_itself() -> None:
    dense, random, _ = GROUPS[0].rows
    cells = {column.heading: column for column in RESULTS}
    for heading in ("vs dense", "McNemar p", "same answers"):
        assert cells[heading].shown(dense) == ""
        assert cells[heading].shown(random) != ""


@pytest.mark.parametrize(("width", "count"), [(WIDE, 1), (MIDDLE, 2), (80, 3)])
def test_narrow_terminals_get_every_column_in_one_of_several_tables(width: int, count: int) -> None:
    tables = terminal_tables("title", GROUPS[0].rows, width)
    headings = [str(column.header) for table in tables for column in table.columns]
    own = [heading for heading in headings if heading not in ("plan", "keep")]
    assert len(tables) == count
    assert (headings.count("plan"), headings.count("keep")) == (count, count)
    assert len(own) == len(set(own)) == 9
    assert all(len(line) <= width for line in printed(GROUPS[0].rows, width).splitlines())


def test_names_are_data() -> None:
    assert "[bold]ours" in printed(GROUPS[0].rows, WIDE)


def test_shares_of_a_stage_that_takes_next_to_nothing_are_noise_and_not_shown() -> None:
    dense, plan = GROUPS[0].rows[:2]
    took = sum(plan.run.dense_wall)
    spent = {"encode": 0.5 * took, "project": 0.004 * took, "prefill": 0.4 * took}
    timed = [
        replace(row, run=replace(row.run, seconds=dict(spent), dense_seconds=spent))
        for row in (dense, plan)
    ]
    assert [column.heading for column in stage_columns(timed)] == ["encode", "prefill"]
    assert brief_stages(timed) == ["project"]
    slow = replace(timed[1], run=replace(plan.run, dense_seconds={"project": 0.02 * took}))
    assert brief_stages([timed[0], slow]) == []
