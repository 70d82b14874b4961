"""What a study file may not say, where the error points, and what names in it mean."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.studies.test_studies import change
from tokenprune.errors import DataError, PlanError, UnknownNameError
from tokenprune.lab.models import REFERENCE
from tokenprune.lab.studies import cells, load_study, run_study
from tokenprune.lab.studies.model import LONG, SHORT, ModelEntry, TaskEntry
from tokenprune.lab.studies.tasks import questions
from tokenprune.plan.read import parse

GOOD = {"plan": {"stages": [{"at": "pre_llm", "strategy": "random", "keep": 4}]}}
BAD = {"plan": {"stages": [{"at": "pre_llm", "strategy": "randm", "keep": 4}]}}
MODEL = {"name": REFERENCE}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"models": [MODEL, MODEL]}, r"models\.1: two models are called 'reference'"),
        ({"tasks": [{"kind": "image"}, {"kind": "image", "limit": 3}]}, r"tasks\.1: two tasks"),
        ({"plans": [{**GOOD, "grid": {"seed": []}}]}, r"plans\.0\.grid\.seed"),
        ({"plans": [GOOD, {**BAD, "name": "mine"}]}, r"plans\.1 \(mine\): .*strategy"),
        ({"plans": [BAD]}, r"plans\.0: stages\.0\.strategy"),
    ],
)
def test_the_place_is_named(changed: dict[str, Any], words: str, study: Path) -> None:
    change(study, **changed)
    with pytest.raises(PlanError) as caught:
        cells(load_study(study))
    assert re.search(words, str(caught.value))


def test_titles_tell_equal_models_apart(study: Path) -> None:
    change(study, models=[{**MODEL, "title": "single"}, {**MODEL, "dtype": "bfloat16"}])
    labels = {cell.label.rpartition(", ")[2] for cell in cells(load_study(study))}
    assert labels == {"single", REFERENCE}


def test_folders_beside_the_study_come_first(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    for name in ("mine", REFERENCE):
        (tmp_path / name).mkdir()
    named = [{"name": name} for name in ("mine", REFERENCE, "timm:vit")]
    change(study, models=named, tasks=[{"kind": "dataset", "dataset": REFERENCE}])
    assert load_study(study).tasks[0].dataset == str(tmp_path / REFERENCE)
    models = load_study(study).models
    assert [model.name for model in models] == [str(tmp_path / "mine"), REFERENCE, "timm:vit"]
    assert [model.shown for model in models] == ["mine", REFERENCE, "timm:vit"]
    monkeypatch.chdir(tmp_path)
    assert ModelEntry().shown == REFERENCE


def test_a_misspelt_reference_is_suggested(study: Path) -> None:
    change(study, models=[{"name": "refrence"}])
    with pytest.raises(UnknownNameError, match="Did you mean 'reference'"):
        run_study(load_study(study))


def test_the_users_own_answers_get_room(study: Path) -> None:
    own, ours = TaskEntry(kind="jsonl", path=Path("a")), TaskEntry()
    change(study, new_tokens=None)
    assert [load_study(study).generated(task) for task in (own, ours)] == [LONG, SHORT]
    change(study, new_tokens=5)
    assert [load_study(study).generated(task) for task in (own, ours)] == [5, 5]


def test_a_key_may_stand_once_however_mappings_are_merged(study: Path) -> None:
    study.write_text(study.read_text() + "seed: 1\nseed: 2\n")
    with pytest.raises(PlanError, match="'seed' stands here twice"):
        load_study(study)
    merged = "base: &b {x: 0}\ntop: {inner: &a {<<: *b, x: 1}}\nlast: {<<: *a}\n"
    assert parse(merged, "here")["last"] == {"x": 1}


def test_a_task_of_some_types_holds_these_questions_only(study: Path) -> None:
    builtin = TaskEntry(kind="image", types=("shape", "count"), limit=30)
    found = questions(builtin)
    assert len(found) == 30
    assert {one.kind for one in found} == {"shape", "count"}
    with pytest.raises(DataError, match=r"of the task 'image' is of type 'shap'.*'shape'"):
        questions(TaskEntry(kind="image", types=("shap",)))
    own = TaskEntry(kind="jsonl", path=study.parent / "asked.jsonl", types=("count",))
    with pytest.raises(DataError, match="is of type 'count'"):
        questions(own)
    with pytest.raises(ValueError, match="'types' goes with the kinds"):
        TaskEntry(kind="captions", path=Path("a.jsonl"), types=("count",))


def test_a_list_isnt_called_too_short_where_its_entry_is_wrong(study: Path) -> None:
    change(study, plans=[{**GOOD, "grid": {"stages.0.keep": 64}}])
    with pytest.raises(PlanError, match=r"plans\.0\.grid\.stages\.0\.keep: .*list") as caught:
        load_study(study)
    assert "at least 1" not in str(caught.value)


@pytest.mark.parametrize("key", ["models", "tasks", "plans"])
def test_a_study_of_nothing_is_refused(study: Path, key: str) -> None:
    change(study, **{key: []})
    with pytest.raises(PlanError, match=rf"{key}: .*at least 1"):
        load_study(study)
