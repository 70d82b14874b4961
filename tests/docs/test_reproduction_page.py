"""The reproduction page says what the intervals of its record say, and nothing else."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.paper_evoprune import ORDERINGS, TABLE_3

DOCS = Path(__file__).parents[2] / "docs"
ABOVE, AROUND, BELOW = (0.05, 0.01, 0.09), (0.01, -0.02, 0.04), (-0.05, -0.09, -0.01)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("generators.reproduction")


def interval(values: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), values, strict=True))


def ordering(better: str, worse: str, larger: Any, smaller: Any = None) -> dict[str, Any]:
    found = {"32": interval(larger), "8": interval(smaller or larger)}
    return {"better": better, "worse": worse, "evidence": "told", "difference": found}


def record(**changes: Any) -> dict[str, Any]:
    names = ("evoprune", "without attention", "without diversity", "similarity only", "first")
    cell = {
        "accuracy": interval((0.9, 0.85, 0.95)),
        "above_full": interval(AROUND),
        "right": "10",
        "steps": {"steps": 6, "protecting": 3, "full": 2},
    }
    return {
        "environment": {"threads": 1, "processor": "a processor", "packages": {"torch": "2.15.0"}},
        "samples": 2,
        "keeps": [32, 8],
        "dense": interval((0.99, 0.98, 1.0)),
        "rows": {name: {"32": cell, "8": cell} for name in names},
        "orderings": [
            ordering("evoprune", "first", ABOVE, AROUND),
            ordering("evoprune", "without attention", BELOW),
            ordering("evoprune", "without diversity", AROUND),
        ],
        "tome": [ordering("evoprune", "tome", BELOW)],
        "refused": {"last at 8": "can't be reached"},
        **changes,
    }


def text(page: ModuleType, folder: Path, made: dict[str, Any]) -> str:
    path = folder / "reproduction.json"
    path.write_text(json.dumps(made))
    found: str = page.reproduction(path)
    return found


def test_a_missing_record_names_its_command(page: ModuleType, tmp_path: Path) -> None:
    told = page.reproduction(tmp_path / "reproduction.json")
    assert "makes `reproduction.json`" in told
    assert "python -m benchmarks.reproduction" in told


def test_every_budget_has_a_verdict_of_its_own(page: ModuleType, tmp_path: Path) -> None:
    told = text(page, tmp_path, record())
    first = "full score over full score, `first`"
    other = "full score over without attention, -5.0 [-9.0 -1.0]"
    undecided = "full score over without diversity"
    assert (
        "**32 tokens**, 3 orderings of the paper:\n\n"
        f"- Reproduces (1): {first}, +5.0 [+1.0 +9.0].\n"
        f"- Comes out the other way round (1): {other}.\n"
        f"- Can't be told (1): {undecided}.\n"
    ) in told
    assert (
        "**8 tokens**, 3 orderings of the paper:\n\n"
        f"- Comes out the other way round (1): {other}.\n"
        f"- Can't be told (2): {first}; {undecided}.\n"
    ) in told
    assert "pooled" in told
    assert "- ToMe, every block: behind at 32 (-5.0 [-9.0 -1.0]) and 8" in told
    assert "- last at 8: can't be reached" in told


def test_other_intervals_make_another_statement(page: ModuleType, tmp_path: Path) -> None:
    made = record(
        orderings=[ordering("evoprune", "first", BELOW, ABOVE)],
        tome=[ordering("evoprune", "tome", ABOVE, AROUND)],
    )
    told = text(page, tmp_path, made)
    assert told.count("Reproduces (1)") == 1
    assert (
        "- ToMe, every block: ahead at 32 (+5.0 [+1.0 +9.0]); can't be told from it at 8." in told
    )
    row = next(line for line in told.splitlines() if line.startswith("| full score over full"))
    assert "| -5.0 [-9.0 -1.0] - | +5.0 [+1.0 +9.0] + |" in row


def test_the_share_of_protecting_steps_stands_by_budget(page: ModuleType, tmp_path: Path) -> None:
    told = text(page, tmp_path, record())
    assert "| full score | 3 of 6 | 3 of 6 |" in told
    assert "| full score, `last` | - | - |" in told, "not measured"


def test_the_cap_is_called_a_hypothesis(page: ModuleType, tmp_path: Path) -> None:
    share = interval((0.9, 0.85, 0.95))
    low = interval((0.5, 0.45, 0.55))
    rows = {
        "evoprune": {
            "8": {"left": 18, "accuracy": share, "exact": low, "above_exact": interval(ABOVE)}
        },
        "mean": {"8": {"left": 9, "accuracy": low}},
    }
    cap = {
        "rows": rows,
        "orderings": [ordering("evoprune", "mean", ABOVE)],
        "paper": {"evoprune": {"64": 64, "16": 35}, "mean": {"64": 64, "16": 16}},
    }
    told = text(page, tmp_path, record(silent_cap=cap))
    assert "**Not proven.**" in told
    assert "| full score | 64 | 35 |" in told
    assert "| full score | 18 | 90.0 [85.0 95.0] | 50.0 [45.0 55.0] | +5.0 [+1.0 +9.0] |" in told
    assert "| full score, `mean` | 9 | 50.0 [45.0 55.0] | - | - |" in told
    assert told.index("| full score | 18") < told.index("| full score, `mean` | 9"), "best first"
    assert "Not proven" not in text(page, tmp_path, record())


def test_an_interval_that_touches_zero_decides_nothing(page: ModuleType) -> None:
    for touching in ((0.0, 0.0, 0.0), (0.01, 0.0, 0.02), (-0.01, -0.02, 0.0)):
        assert page.verdict(interval(touching)) == "open"


def test_the_papers_numbers_stand_beside_ours(page: ModuleType, tmp_path: Path) -> None:
    told = text(page, tmp_path, record())
    ours = "90.0 [85.0 95.0]"
    assert f"| similarity only | 55.9 | 96.5 | {ours} | {ours} |" in told
    assert "| dense | 57.9 | 100.0 | 99.0 [98.0 100.0] | 99.0 [98.0 100.0] |" in told
    assert f"| full score, `first` | Video-MME 52.44 at 16 | {ours} | {ours} |" in told


def test_the_papers_orderings_are_those_of_its_table() -> None:
    for one in ORDERINGS:
        if one.better in TABLE_3 and one.worse in TABLE_3:
            assert TABLE_3[one.better].relative > TABLE_3[one.worse].relative
    for row in TABLE_3.values():
        mean = (row.mvbench + row.longvideobench + row.videomme) / 3
        assert row.average == pytest.approx(mean, abs=0.11)


def test_budgets_that_the_record_lacks_are_named(page: ModuleType, tmp_path: Path) -> None:
    told = text(page, tmp_path, record())
    assert "Not measured yet, for want of time: 64, 48, 40 and 16 tokens." in told
    whole = text(page, tmp_path, record(keeps=[64, 48, 40, 32, 16, 8]))
    assert "Not measured" not in whole
