"""The tidy table: what was varied has columns of its own, and values have their types."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.reporting.made import failed, record, save
from tokenprune.cli import app
from tokenprune.lab.judge.tables import csv_table
from tokenprune.lab.report.tidy import plain, tidy, write_tidy
from tokenprune.lab.studies.store import Record
from tokenprune.lab.studies.summary import lines, summarise


def varied(name: str, strategy: str, keep: int, **params: Any) -> Record:
    """A cell of a grid over strategy, keep and, where given, a parameter."""
    made = record(name, strategy, keep=keep)
    plan = {**made.identity["plan"]}
    plan["stages"] = [{**plan["stages"][0], "params": params}]
    grid = {"stages.0.strategy": strategy, "stages.0.keep": keep}
    grid |= {f"stages.0.params.{key}": value for key, value in params.items()}
    return record(name, strategy, keep=keep, plan=plan, grid=grid)


RECORDS = [
    record("dense", None),
    record("alone", "random", keep=4),
    varied("one", "uniform", 8),
    varied("two", "fopru", 4, mode="row"),
    failed("lost", "out of memory"),
]


@pytest.fixture
def table() -> dict[str, list[Any]]:
    return tidy(lines(summarise(RECORDS)))


def test_every_key_of_a_grid_has_a_column_and_no_name_has_to_be_read(
    table: dict[str, list[Any]],
) -> None:
    assert table["plan"] == ["dense", "alone", "one", "two", "lost"]
    assert table["strategy"] == ["dense", "random", "uniform", "fopru", "fastv"]
    assert table["stage"] == [None, *["pre_llm"] * 4]
    assert table["keep"] == [None, 4, 8, 4, 8]
    assert table["seed"] == [None, 0, 0, 0, 0]
    assert table["stages.0.strategy"] == [None, "random", "uniform", "fopru", "fastv"]
    assert table["stages.0.keep"] == [None, 4, 8, 4, 8], "also of plans beside the grid"
    assert table["stages.0.params.mode"] == [None, None, None, "row", None]
    digests = table["plan_digest"]
    assert digests[0] is None
    assert len(set(digests)) == 5
    assert all(len(one) == 64 for one in digests[1:])


def test_measured_values_stand_under_readable_names(table: dict[str, list[Any]]) -> None:
    assert table["tokens_llm_in"] == [16.0, 4.0, 8.0, 4.0, None]
    assert table["tokens_llm_mean"] == table["tokens_llm_in"]
    assert table["accuracy"][0] == pytest.approx(4 / 6)
    assert table["accuracy_low"][0] < table["accuracy"][0] < table["accuracy_high"][0]
    assert table["flops_dense"][1] == pytest.approx(8e9 / 2e10)
    assert table["status"] == ["done"] * 4 + ["failed"]
    assert table["beware"][-1] == "out of memory"
    assert {len(column) for column in table.values()} == {5}


def test_names_of_columns_are_plain() -> None:
    assert plain("FLOPs / dense") == "flops_dense"
    assert plain("tokens: LLM layer 2") == "tokens_llm_layer_2"


@pytest.mark.parametrize("kind", ["low", "\u8ba1\u6570", "A", "?"])
def test_no_type_of_questions_takes_another_columns_place(kind: str) -> None:
    made = [record("dense", None, text=kind)]
    (row,) = summarise(made)[0].rows
    found = tidy(lines(summarise(made)))
    assert found["accuracy"] == [row.accuracy.value]
    assert (found["accuracy_low"], found["accuracy_high"]) == (
        [row.accuracy.low],
        [row.accuracy.high],
    )
    mine = [values for name, values in found.items() if name.startswith("accuracy")]
    assert len(mine) == 3 + len(row.by_type)


def test_the_digest_is_that_of_what_a_plan_does(table: dict[str, list[Any]]) -> None:
    named = {**record("b", "uniform").identity["plan"], "name": "another"}
    again = tidy(lines(summarise([record("a", "uniform"), record("b", "uniform", plan=named)])))
    assert len(set(again["plan_digest"])) == 1


def test_csv_and_parquet_hold_the_same(tmp_path: Path, table: dict[str, list[Any]]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    files, missing = write_tidy(lines(summarise(RECORDS)), tmp_path)
    assert ([file.name for file in files], missing) == (["tidy.csv", "tidy.parquet"], "")
    read = parquet.read_table(files[1]).to_pydict()
    assert list(read) == list(table)
    assert read["stages.0.keep"] == table["stages.0.keep"]
    assert read["accuracy"] == table["accuracy"]
    rows = list(csv.DictReader(files[0].open(encoding="utf-8")))
    assert [row["keep"] for row in rows] == ["", "4", "8", "4", "8"]
    assert [float(row["accuracy"]) for row in rows[:4]] == table["accuracy"][:4]


def test_no_text_becomes_a_formula_and_numbers_stay(tmp_path: Path) -> None:
    name = '=HYPERLINK("http://x")'
    grids = [{"stages.0.params.tau": tau} for tau in (-0.5, "-1", "+cmd", "@x")]
    made = [record(f"{name}{n}", "uniform", grid=grid) for n, grid in enumerate(grids)]
    written = lines(summarise(made))
    (file, *_), _ = write_tidy(written, tmp_path)
    for text in (file.read_text(encoding="utf-8"), csv_table(written)):
        rows = [*csv.DictReader(text.splitlines())]
        assert [row["plan"] for row in rows] == [f"'{name}{n}" for n in range(4)]
        assert [row["stages.0.params.tau"] for row in rows] == ["-0.5", "-1", "'+cmd", "'@x"]


def test_mixed_values_of_a_key_become_texts(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    grids = [{"stages.0.keep": 8}, {"stages.0.keep": {"average": 8}}]
    made = [record(str(n), "uniform", grid=grid) for n, grid in enumerate(grids)]
    files, _ = write_tidy(lines(summarise(made)), tmp_path)
    read = parquet.read_table(files[1]).to_pydict()
    assert read["stages.0.keep"] == ["8", '{"average": 8}']


def test_without_pyarrow_the_command_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path, RECORDS[:4])
    monkeypatch.setattr("tokenprune.lab.report.tidy.util.find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["report", str(folder), "--tidy", "--no-figures"])
    assert result.exit_code == 0, result.output
    assert "tidy.parquet needs pyarrow: pip install -e '.[parquet]' in the folder" in result.output
    assert (folder / "tidy.csv").exists()
    assert not (folder / "tidy.parquet").exists()
    (folder / "figures").mkdir()
    (folder / "figures" / "1-toy-jsonl-time.png").touch()
    said = CliRunner().invoke(app, ["report", str(folder), "--no-figures"]).output
    names = folder / "tidy.csv", folder / "figures" / "1-toy-jsonl-time.png"
    assert "of an earlier report: {}, {}\n".format(*names) in said


def test_a_grid_over_seeds_has_one_column_of_them() -> None:
    plans = [{**record("a", "random").identity["plan"], "seed": seed} for seed in (3, 4)]
    made = [
        record(str(n), "random", plan=plan, grid={"seed": plan["seed"]})
        for n, plan in enumerate(plans)
    ]
    written = lines(summarise(made))
    assert tidy(written)["seed"] == [3, 4]
    heading = csv_table(written).splitlines()[0].split(",")
    assert heading.count("seed") == 1
    assert len(heading) == len(set(heading))
