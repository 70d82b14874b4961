"""The report: complete, self-contained and safe, whatever the records say."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.studies import row_of
from tests.reporting.made import HOSTILE, failed, record, save
from tokenprune.cli import app
from tokenprune.errors import DataError
from tokenprune.lab.judge.tables import csv_table, markdown_table
from tokenprune.lab.judge.warnings import gathered, notes
from tokenprune.lab.report import html, read_results, write_figures, write_report
from tokenprune.lab.report.families import families, sign
from tokenprune.lab.report.labels import beside
from tokenprune.lab.report.overlays import PageImages
from tokenprune.lab.report.plots import ticks
from tokenprune.lab.report.points import Point, front
from tokenprune.lab.report.views import group_view, headline
from tokenprune.lab.studies.store import Record
from tokenprune.lab.studies.summary import lines, summarise

#: Elements that run something or ask for something.
ACTIVE = {"script", "img", "iframe", "object", "embed", "link", "base", "form", "video", "audio"}


class Seen(HTMLParser):
    """Elements, and everything that refers to something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.handlers: list[str] = []
        self.places: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        for name, value in attrs:
            if name.startswith("on"):
                self.handlers.append(name)
            if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
                self.places.append(str(value))
            if name == "style":
                assert re.fullmatch(r"width:[\d.]+%", str(value))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    records = [
        record("dense", None, time=1.0),
        record("random", "random", (True, False) * 3),
        record(HOSTILE, "uniform", text=HOSTILE, frames=2),
        failed("broken", HOSTILE),
    ]
    return save(tmp_path / "records", records, HOSTILE)


def page(folder: Path) -> str:
    results = read_results(folder)
    return html(results, summarise(results.records))


def test_the_page_asks_for_nothing_and_runs_nothing(folder: Path) -> None:
    text = page(folder)
    seen = Seen(text)
    assert {"table", "svg", "image"} <= seen.elements
    assert not seen.elements & ACTIVE
    assert seen.handlers == []
    assert all(place.startswith(("data:image/jpeg;base64,", "#p")) for place in seen.places)
    assert len(seen.places) > 4
    assert not re.findall(r"url\(|@import", text.split("</style>")[0])
    assert "&lt;script&gt;" in text
    assert "49" not in re.findall(r"<title>(.*)</title>", text)[0]
    assert "default-src 'none'" in text
    assert text.count('class="plot"') == 3


def test_a_picture_is_there_once_and_only_as_data(folder: Path) -> None:
    assert page(folder).count("data:image/jpeg") == 1
    other = record("elsewhere", "fastv")
    other.result["shown"][0]["frames"][0]["picture"] = "https://example.org/x.jpg"
    save(folder, [other])
    assert "example.org" not in page(folder)


def test_the_study_decides_which_records_are_shown(folder: Path) -> None:
    assert read_results(folder).records[0].identity["name"] == "dense"
    old = record("dense", None, environment={"processor": "old"})
    keys = [r.key for r in read_results(folder).records]
    save(folder, [old])
    from tokenprune.lab.studies.store import Store

    Store(folder).note("again", [*keys, "0" * 64])
    results = read_results(folder)
    assert (len(results.records), results.others, results.waiting) == (4, 1, 1)
    assert "Cells without a record yet: 1" in page(folder)
    assert len(read_results(folder, everything=True).records) == 5
    (folder / "study.json").write_text("{")
    assert (len(read_results(folder).records), read_results(folder).name) == (5, "records")


def test_a_damaged_record_is_named_and_left_out(folder: Path) -> None:
    first = sorted((folder / "cells").glob("*.json"))[0]
    first.write_text(first.read_text().replace('"jsonl"', '"other"'))
    results = read_results(folder)
    assert list(results.damaged) == [first.name]
    assert (len(results.records), results.waiting) == (3, 0)
    assert first.name in page(folder)
    done = CliRunner().invoke(app, ["report", str(folder), "--no-figures"])
    assert (done.exit_code, first.name in done.output) == (1, True)


def test_all_files_of_a_report(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    written = write_report(read_results(folder), tmp_path / "shared" / "a.html")
    names = sorted(path.name for path in written.files)
    costs = ("flops", "time", "tokens")
    drawn = [f"1-toy-jsonl-{cost}.{form}" for cost in costs for form in ("pdf", "png", "svg")]
    assert names == [*drawn, "a.html", "results.csv", "results.md"]
    assert all(path.stat().st_size > 200 for path in written.files)
    rows = list(csv.DictReader((tmp_path / "shared" / "results.csv").open(encoding="utf-8")))
    assert [row["plan"] for row in rows] == ["dense", "random", HOSTILE, "broken"]
    assert (rows[0]["accuracy"], rows[1]["accuracy"]) == ("0.6667", "0.5000")
    assert [row["status"] for row in rows] == ["done"] * 3 + ["failed"]
    assert rows[3]["beware"] == HOSTILE
    assert rows[1]["tokens: LLM in"] == "8"
    assert rows[1]["samples"] == "6"
    assert rows[1]["metric: length"] == "2.5"
    assert float(rows[1]["accuracy: a"]) == 0.5
    ends = float(rows[1]["vs dense low"]), float(rows[1]["vs dense high"])
    assert ends[0] <= float(rows[1]["vs dense"]) <= ends[1]
    lines = (tmp_path / "shared" / "results.md").read_text().splitlines()
    assert len(lines) == 2 + 4
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_tables_hold_no_formula_and_no_markup(tmp_path: Path) -> None:
    name = '=HYPERLINK("http://x")|![a](http://x/b.png)<img src=http://x/c.png>'
    groups = summarise([record("dense", None), record(name, "uniform")])
    row = list(csv.DictReader(csv_table(lines(groups)).splitlines()))[1]
    assert row["plan"] == f"'{name}"
    markdown = markdown_table(lines(groups))
    assert "<img" not in markdown
    assert "![" not in markdown


def test_bars_compare_with_the_dense_calls_beside_them(folder: Path) -> None:
    """A cell that ran while the machine was slow has a long bar in seconds, and no longer share."""
    slow = record("slow", "uniform", time=4.0)
    result = {**slow.result, "dense_wall": [8.0, 8.0]}
    groups = summarise([record("dense", None, time=1.0), Record(slow.identity, "done", result)])
    dense, other = group_view(groups[0], families(groups), PageImages())["bars"]
    assert other.total == pytest.approx(0.25)
    assert dense.total == pytest.approx(0.5)


def test_failed_cells_are_named_and_end_with_code_1(folder: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(folder), "--no-figures"])
    assert done.exit_code == 1
    assert "failed: broken, jsonl, toy" in done.output


def test_the_benchmark_of_studies_finds_rows_of_the_page(tmp_path: Path) -> None:
    names = ("random keep=3", "random keep=32", "a & b's")
    records = [record(name, "random") for name in names]
    written = page(save(tmp_path, [record("dense", None), *records]))
    for name in names:
        row = row_of(written, name)
        assert row.startswith('<th scope="row" class="name">')
        assert row.count("<th") == 1
        assert "McNemar" not in row
        assert re.search(r"<td>\d\.\d\d</td>\s*<td>[^<]*</td>\s*$", row)  # two batches: no interval
    assert "<td>66.7 % " in row_of(written, "dense")
    assert row_of(written, "random") == ""


def test_the_headline_names_the_fastest_plan_without_a_measurable_loss() -> None:
    rows = [
        record("dense", None, (True,) * 6, time=1.0),
        record("fast and wrong", "fastv", (False,) * 6, time=0.1),
        record("fast", "uniform", (True,) * 6, time=0.4),
        record("slow", "random", (True,) * 6, time=1.5),
    ]
    assert "on these 6 samples is fast: 100.0 %" in headline(summarise(rows)[0])
    assert headline(summarise(rows)[0]).endswith(
        "of the time (of 2 batches, too few for an interval)."
    )
    assert headline(summarise([rows[0], rows[1], rows[3]])[0]).startswith("no plan is faster")
    assert headline(summarise(rows[:1])[0]) == headline(summarise(rows[1:])[0]) == ""


def test_figures_are_the_same_for_the_same_records(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenprune.lab.report.figures.FORMATS", ("svg",))
    groups = summarise(read_results(folder).records[:2])
    one, two = (write_figures(groups, tmp_path / name) for name in ("one", "two"))
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))


def test_bad_folders_end_with_code_2(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder 'cells'"):
        read_results(tmp_path)
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert (done.exit_code, "behind 'out'" in done.output) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_no_record_yet(tmp_path: Path) -> None:
    assert "There is no record yet" in page(save(tmp_path, []))


def test_the_front_holds_what_nothing_beats() -> None:
    points = [
        Point(x, y, y, y, "", "") for x, y in ((1, 0.5), (2, 0.4), (2, 0.7), (3, 0.7), (4, 0.9))
    ]
    assert [(point.x, point.y) for point in front(points)] == [(1, 0.5), (2, 0.7), (4, 0.9)]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.06, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.0, 208.0, [0, 50, 100, 150, 200]),
        (0.57, 1.0, [0.6, 0.7, 0.8, 0.9, 1.0]),
        (0.93, 0.951, [0.93, 0.935, 0.94, 0.945, 0.95]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_signs_differ_beyond_the_number_of_shapes() -> None:
    assert len({sign(number) for number in range(64)}) == 64
    assert all(shape < 8 and colour < 8 for shape, colour in map(sign, range(100)))


def test_only_intervals_of_points_of_equal_cost_are_moved_apart() -> None:
    assert beside([10, 50, 10, 10], step=4, most=100) == [-4, 0, 0, 4]
    assert beside([10] * 5, step=4, most=8) == [-4, -2, 0, 2, 4]
    assert beside([3, 9], step=4, most=8) == [0, 0]


def test_rows_carry_the_numbers_of_their_warnings(folder: Path) -> None:
    group = summarise(read_results(folder).records)[0]
    for row, note in zip(group.rows, notes(group.rows), strict=True):
        said = [gathered(group.rows)[int(number) - 1][1] for number in note.split(", ")]
        assert tuple(said) == row.warnings
