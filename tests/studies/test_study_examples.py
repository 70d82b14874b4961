"""The example studies: valid, in the schema, and what the page of the documentation shows."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.plan.json_schema import complaints
from tokenprune.lab.studies import cells, load_study
from tokenprune.lab.studies.model import LONG, SHORT, Study, TaskEntry
from tokenprune.lab.studies.schema import study_schema

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "examples" / "studies").glob("*.yaml"))
PAGE = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_is_valid_and_fits_the_schema(path: Path) -> None:
    names = [cell.name for cell in cells(load_study(path))]
    assert names[0] == "dense"
    assert len(names) == len(set(names)) == {"budgets": 9, "methods": 31}[path.stem]
    assert complaints(yaml.safe_load(path.read_text()), study_schema()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"plans": []},
        {"plans": [{"plan": {"stages": [{"at": "nowhere", "strategy": "random", "keep": 1}]}}]},
        {"plans": [{"plan": "a.yaml"}], "model": []},
        {"plans": [{"plan": "a.yaml"}], "tasks": [{"kind": "imago"}]},
    ],
)
def test_the_schema_refuses_what_is_wrong(wrong: dict[str, object]) -> None:
    assert complaints({"out": "o", "plans": [{"plan": "a.yaml"}]}, study_schema()) == []
    assert complaints({"out": "o", **wrong}, study_schema())


SHOWN = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


@pytest.mark.parametrize("shown", [block for block in SHOWN if "plans" in block])
def test_the_page_shows_studies_that_hold(shown: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "plans").symlink_to(ROOT / "examples" / "plans")
    (tmp_path / "studies").mkdir()
    path = tmp_path / "studies" / "study.yaml"
    path.write_text(yaml.safe_dump(shown))
    plans = 1 + sum(
        prod(len(values) for values in one.get("grid", {}).values()) for one in shown["plans"]
    )
    study = load_study(path)
    assert len(cells(study)) == plans * len(study.models) * len(study.tasks)


@pytest.mark.parametrize("shown", [block for block in SHOWN if "plans" not in block])
def test_the_page_shows_tasks_that_hold(shown: dict[str, Any]) -> None:
    assert [TaskEntry.model_validate(task) for task in shown.pop("tasks")]
    assert not shown


def test_the_page_names_every_kind_of_task_and_the_defaults() -> None:
    for kind in TaskEntry.model_fields["kind"].annotation.__args__:  # type: ignore[union-attr]
        assert f"`{kind}`" in PAGE
    assert f"| `new_tokens` | {SHORT} for the built-in tasks, else {LONG} |" in PAGE
    for key in ("batch_size", "seed"):
        assert f"| `{key}` | {Study.model_fields[key].default} |" in PAGE
