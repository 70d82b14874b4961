"""Studies of image classifiers, from a folder of pictures to the report."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.compare.tiny import TIMM, save_pictures, save_timm
from tokenprune.errors import DataError
from tokenprune.lab.report import html, read_results
from tokenprune.lab.studies import load_study, run_study
from tokenprune.lab.studies.summary import summarise

PLANS = [
    {"name": name, "plan": {"stages": [{"at": "encoder", "strategy": strategy, "keep": 40}]}}
    for name, strategy in (("merged", "tome"), ("drawn", "random"))
]


def test_pictures_of_a_folder_from_study_to_report(tmp_path: Path) -> None:
    save_pictures(tmp_path, 3)
    save_timm(tmp_path / "vit.safetensors")
    task = {"kind": "pictures", "path": ".", "labels": "labels.csv", "name": "gradients"}
    data = {
        "out": "records",
        "models": [{"name": TIMM, "weights": "vit.safetensors"}],
        "tasks": [task],
        "plans": PLANS,
        "batch_size": 2,
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(data))
    done = run_study(load_study(path))
    assert done.failed == {}
    results = read_results(tmp_path / "records")
    group = summarise(results.records)[0]
    assert (group.model, group.task) == (TIMM, "gradients")
    assert [row.run.mean_tokens for row in group.rows[1:]] == [40, 40]
    assert group.rows[1].versus_random is not None
    owners = [row.run.shown[0]["frames"][0]["owner"] for row in group.rows]
    kept = [len({owner for owner in mine if owner >= 0}) for mine in owners]
    assert kept[0] == group.rows[0].run.mean_tokens > 40
    assert kept[1:] == [40, 40]
    assert html(results, [group]).count('class="overlay"') == 3 * 3


def test_a_task_that_does_not_fit_the_model(study: Path) -> None:
    data = yaml.safe_load(study.read_text())
    data["tasks"] = [{"kind": "pictures", "path": ".", "labels": "labels.csv"}]
    study.write_text(yaml.safe_dump(data))
    with pytest.raises(DataError, match="needs a classifier"):
        run_study(load_study(study))
