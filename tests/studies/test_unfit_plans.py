"""A plan that fits one model of a study and not another one: what runs, and what is said."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import yaml

from tests.studies.test_studies import change
from tests.studies.test_study_command import run
from tokenprune.errors import PlanError
from tokenprune.lab.studies import load_study, run_study
from tokenprune.lab.studies.estimates import estimate

LATE = {"at": "decoder", "strategy": "uniform", "layer": 3, "keep": 4}
WHY = "its plan doesn't fit the model: stages.0"


@pytest.fixture
def mixed(study: Path, model: Path) -> Path:
    """The study with a second model whose LLM has fewer layers than one of two plans names."""
    from transformers import LlavaForConditionalGeneration

    shallow = study.parent / "shallow"
    shutil.copytree(model, shallow)
    made = LlavaForConditionalGeneration.from_pretrained(model, dtype="float32")
    made.config.text_config.num_hidden_layers = 3
    del made.model.language_model.layers[3:]
    made.save_pretrained(shallow)
    early = {"at": "pre_llm", "strategy": "uniform", "keep": 4}
    plans = [{"plan": {"stages": [stage]}, "name": stage["at"]} for stage in (LATE, early)]
    models = [{"name": str(model), "title": "deep"}, {"name": str(shallow)}]
    change(study, models=models, plans=plans)
    return study


def test_what_fits_runs_and_what_does_not_is_named_everywhere(mixed: Path) -> None:
    label = "decoder, asked, shallow"
    code, out = run("study", mixed, "--dry-run")
    assert code == 1
    assert f"can't run: {label}: {WHY}" in out
    assert (out.count("to run"), out.count("can't run")) == (6, 2)
    code, out = run("study", mixed)
    assert code == 1
    assert out.index(f"not run: {label}: {WHY}") < out.index("1 of 6: dense")
    assert f"failed: {label}: {WHY}" in out
    assert "6 cells ran now, 7 are recorded" in out
    folder = mixed.parent / "records"
    code, out = run("report", folder, "--no-figures")
    assert code == 1
    assert WHY in out
    assert WHY in (folder / "report.html").read_text().replace("&#39;", "'")
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert [row["plan"] for row in rows if row["status"] == "failed"] == ["decoder"]
    again = run_study(load_study(mixed))
    assert (again.ran, list(again.failed)) == ([], [label])


def test_random_plans_are_added_for_plans_that_run(mixed: Path) -> None:
    found = [one.cell for one in estimate(load_study(mixed))]
    assert [(cell.name, cell.model.shown) for cell in found if cell.added] == [
        ("random decoder 3 keep 4", "deep")
    ]


def test_a_plan_that_fits_no_model_ends_it(mixed: Path) -> None:
    data = yaml.safe_load(mixed.read_text())
    late = {**LATE, "layer": 99}
    change(mixed, plans=[*data["plans"], {"plan": {"stages": [late]}, "name": "late"}])
    with pytest.raises(PlanError, match="no layer 99") as caught:
        run_study(load_study(mixed))
    assert caught.value.where.startswith("late, asked, deep: stages.0")
    assert not list((mixed.parent / "records" / "cells").glob("*.json"))
    # another plan of that name, which fits its model, is no help
    early = {"plan": data["plans"][1]["plan"], "name": "late", "models": ["shallow"]}
    change(mixed, plans=[{"plan": {"stages": [late]}, "name": "late", "models": ["deep"]}, early])
    with pytest.raises(PlanError, match="no layer 99"):
        run_study(load_study(mixed))


def test_a_plan_that_names_its_models_runs_on_no_other(mixed: Path) -> None:
    late, early = yaml.safe_load(mixed.read_text())["plans"]
    change(mixed, plans=[{**late, "models": ["deep"]}, early])
    code, out = run("study", mixed, "--dry-run")
    assert code == 0
    assert "6 cells" in out
    code, out = run("study", mixed)
    assert code == 0, out
    assert "not run" not in out
    names = [record.identity["name"] for record in run_study(load_study(mixed)).records]
    assert names.count("decoder") == 1
    assert run("report", mixed.parent / "records", "--no-figures")[0] == 0


def test_plans_name_models_of_the_study(mixed: Path) -> None:
    late, early = yaml.safe_load(mixed.read_text())["plans"]
    change(mixed, plans=[{**late, "models": ["deep", "shalow"]}, early])
    with pytest.raises(PlanError, match="no model of the study is called 'shalow'") as caught:
        load_study(mixed)
    assert "Did you mean 'shallow'?" in caught.value.remedy
    assert caught.value.where.endswith("plans.0.models")
    change(mixed, plans=[{**late, "models": ["shallow"]}, early])
    with pytest.raises(PlanError, match="no layer 3"):
        run_study(load_study(mixed))
