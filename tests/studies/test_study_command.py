"""`tokenprune study STUDY.yaml`: what it prints and how it ends."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.studies.test_studies import change
from tokenprune.cli import app
from tokenprune.lab.measure.code import digest
from tokenprune.lab.studies import Store, load_study
from tokenprune.lab.studies.run import identified


def run(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_a_dry_run_records_nothing(study: Path) -> None:
    code, out = run("study", study, "--dry-run")
    assert code == 0
    assert out.count("to run") == 5
    assert "5 cells, 0 of them recorded" in out
    assert not (study.parent / "records").exists()


def test_what_is_recorded_is_told_and_not_run_again(finished: Path) -> None:
    code, out = run("study", finished, "--dry-run")
    assert (code, out.count("to run")) == (0, 0)
    assert "5 of them recorded; about 0 min 0 s left" in out
    code, out = run("study", finished)
    assert code == 0
    assert "0 cells ran now, 5 are recorded" in out
    assert all(f"picked keep={keep}" in out for keep in (8, 4))
    assert f"tokenprune report {finished.parent / 'records'}" in out
    code, out = run("report", finished.parent / "records", "--no-figures")
    assert code == 0
    assert (finished.parent / "records" / "report.html").is_file()


def test_the_next_command_can_be_copied_whatever_the_folder_is_called(finished: Path) -> None:
    folder = (finished.parent / "records").rename(finished.parent / "my 'records'")
    change(finished, out=folder.name)
    code, out = run("study", finished)
    assert code == 0
    assert "0 cells ran now" in out
    (line,) = [one for one in out.splitlines() if one.startswith("report: ")]
    program, *given = shlex.split(line.removeprefix("report: "))
    assert program == "tokenprune"
    assert run(*given, "--no-figures")[0] == 0
    assert (folder / "report.html").is_file()


@pytest.mark.usefixtures("replayed")
def test_records_under_other_code_are_told(finished: Path) -> None:
    """The code has changed since all cells but one were recorded, and torch since that one."""
    store = Store(load_study(finished).out)
    for number, record in enumerate(store.records()[0]):
        identity = json.loads(json.dumps(record.identity))
        if number:
            identity["code"]["tokenprune"] = "0" * 64
            identity["environment"]["packages"]["tokenprune"] = "0.0.1"
        else:
            identity["environment"]["packages"]["torch"] = "0.0.1"
        store.path(record.key).unlink()
        store.write(replace(record, identity=identity))
    told = "4 recorded under another version of tokenprune or of a plugin"
    code, out = run("study", finished, "--dry-run")
    assert (code, out.count("to run")) == (0, 5)
    assert f"0 of them recorded, {told} (report --all shows them); about" in out
    code, out = run("study", finished)
    assert code == 0
    assert f"{told} (report --all shows them); what is run now takes their place" in out
    assert "recorded under" not in run("study", finished)[1]
    out = run("report", store.folder, "--no-figures")[1]
    assert f"left out: {told} (--all shows them)" in out
    assert "left out: 1 recorded with other settings" in out
    assert "5, of which 4 of another version of" in (store.folder / "report.html").read_text()
    assert "left out" not in run("report", store.folder, "--no-figures", "--all")[1]


def test_damaged_and_failed_cells_are_told(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenprune_strategies.baselines import Uniform

    def broken(*_: object) -> None:
        raise ValueError("[bold]out of luck")

    loaded = load_study(finished)
    key = digest(identified(loaded)[2][1])
    Store(loaded.out).path(key).write_text("{")
    monkeypatch.setattr(Uniform, "reduce", broken)
    code, out = run("study", finished)
    assert code == 1
    assert f"damaged, so run again: {key}.json" in out
    assert "failed: picked keep=8 strategy=uniform" in out
    assert "[bold]out of luck" in out


def test_options_of_the_file_are_refused(study: Path) -> None:
    code, out = run("study", study, "--keep", "4")
    assert (code, "--keep" in out) == (2, True)
    assert run("compare", "--dry-run")[0] == 2


@pytest.mark.parametrize("options", [["--dry-run"], ["--dry-run", "--jobs", "2"]])
@pytest.mark.parametrize("first", [True, False])
def test_compare_hands_study_files_on_and_says_so(
    study: Path, options: list[str], first: bool
) -> None:
    args = [study, *options] if first else [*options, study]
    code, out = run("compare", *args)
    assert (code, out.count("to run")) == (0, 5)
    assert "studies run with: tokenprune study FILE" in out
    assert run("compare", *args, "--keep", "4")[0] == 2


@pytest.mark.usefixtures("replayed")
def test_a_log_has_a_line_for_every_cell(study: Path) -> None:
    code, out = run("study", study)
    assert code == 0
    lines = [line for line in out.splitlines() if " of 5: " in line]
    assert [line.split(" ")[0] for line in lines] == ["1", "2", "3", "4", "5"]
    assert all("accuracy" in line and "time / dense" in line for line in lines)
    assert ["left" in line for line in lines] == [True] * 4 + [False]


def test_a_bad_file_ends_with_code_2(study: Path) -> None:
    study.write_text(yaml.safe_dump({**yaml.safe_load(study.read_text()), "plan": []}))
    code, out = run("study", study)
    assert (code, "plans" in out) == (2, True)
    assert run("study", study.parent / "none.yaml")[0] == 2


@pytest.mark.usefixtures("replayed")
def test_cells_left_to_another_run_end_with_code_1(study: Path) -> None:
    loaded = load_study(study)
    with Store(loaded.out).claimed(digest(identified(loaded)[1][1])):
        code, out = run("study", study)
    assert code == 1
    assert "another run is working on it: picked keep=8" in out
    assert run("study", study)[0] == 0
