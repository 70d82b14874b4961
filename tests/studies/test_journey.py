"""The page's study from start to plot: run, killed, resumed, reported, and plotted in pandas."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.processes import killed, started
from tokenprune.cli import app
from tokenprune.lab.studies import load_study, run_study

pandas = pytest.importorskip("pandas", reason="only the page's plot needs pandas")

ROOT = Path(__file__).parents[2]
SECTION = (
    (ROOT / "docs" / "studies.md")
    .read_text(encoding="utf-8")
    .split("## A study from start to plot")[1]
    .split("\n## ")[0]
)
METHODS, BUDGETS = ("random", "fopru", "divprune"), (16, 8, 4)


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)
    return str(found)


@pytest.fixture
def journey(study: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's study file, on a tiny model and its questions."""
    shown, tiny = yaml.safe_load(block("yaml")), yaml.safe_load(study.read_text())
    kept = {key: tiny[key] for key in ("models", "tasks", "batch_size", "new_tokens")}
    path = study.parent / "three.yaml"
    path.write_text(yaml.safe_dump(shown | kept))
    monkeypatch.chdir(study.parent)
    return path


def test_the_pages_journey(journey: Path) -> None:
    study = load_study(journey)
    with killed(started(run_study, study), lambda: any(study.out.glob("cells/*.json"))):
        pass
    left = len([*study.out.glob("cells/*.json")])
    assert 1 <= left <= 10
    runner = CliRunner()
    result = runner.invoke(app, ["study", journey.name])
    assert result.exit_code == 0, result.output
    assert f"{10 - left} cells ran now, 10 are recorded" in result.output
    lines = [line for line in result.output.splitlines() if re.match(r"\d+ of \d+: ", line)]
    assert len(lines) == 10 - left
    assert all(re.search(r"accuracy [\d.]+ %, [\d.]+ tokens, time / dense", line) for line in lines)

    (*_, report) = block("bash").split("tokenprune ")
    result = runner.invoke(app, [*report.split(), "--no-figures"])
    assert result.exit_code == 0, result.output

    found: dict[str, Any] = {}
    exec(compile(block("python"), "studies.md", "exec"), found)
    plans, drawn = found["plans"], found["axes"].get_lines()
    assert {(row.strategy, int(row.keep)) for row in plans.itertuples()} == {
        (method, budget) for method in METHODS for budget in BUDGETS
    }
    assert [*plans["stages.0.keep"]] == [*plans.keep] == [*plans.tokens_llm_in]
    assert {*plans.plan} == {f"{method}-{budget}" for method in METHODS for budget in BUDGETS}
    for line, method in zip(drawn, sorted(METHODS), strict=False):
        mine = plans[plans.strategy == method].sort_values("keep")
        assert [*line.get_xdata()] == [*mine.keep]
        assert [*line.get_ydata()] == [*mine.accuracy]
    assert (journey.parent / "three" / "accuracy.pdf").stat().st_size > 0
