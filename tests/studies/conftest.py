"""A study of a tiny model on a few of the user's own questions."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.compare.tiny import save_llava, save_pictures
from tokenprune.lab.studies import Cell, Store, Study, load_study, run_study, runners
from tokenprune.lab.studies.store import Status

PLANS = [
    {
        "name": "picked",
        "plan": {"stages": [{"at": "pre_llm", "strategy": "random", "keep": 8}]},
        "grid": {"stages.0.strategy": ["random", "uniform"], "stages.0.keep": [8, 4]},
    }
]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture
def study(model: Path, tmp_path: Path) -> Path:
    """A study file: dense and four plans on six questions."""
    return save_study(model, tmp_path)


@pytest.fixture(scope="session")
def _once(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("once")
    run_study(load_study(save_study(model, folder)))
    return folder / "records"


@pytest.fixture
def finished(study: Path, _once: Path) -> Path:
    """The same study with the records of all its cells."""
    shutil.copytree(_once, study.parent / "records")
    return study


@pytest.fixture
def replayed(_once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a cell comes to is read from the records of another run instead of measured."""
    known = {record.identity["name"]: record for record in Store(_once).records()[0]}

    def execute(cell: Cell, study: Study) -> tuple[Status, dict[str, Any]]:
        return known[cell.name].status, copy.deepcopy(known[cell.name].result)

    monkeypatch.setattr(runners, "execute", execute)


def save_study(model: Path, tmp_path: Path) -> Path:
    """Write the study, its pictures and its questions."""
    save_pictures(tmp_path, 3)
    rows = [
        {"image": f"{number % 3}.png", "question": "what is the shape ?", "answer": "yes"}
        for number in range(6)
    ]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "out": "records",
        "models": [{"name": str(model)}],
        "tasks": [{"kind": "jsonl", "path": "asked.jsonl"}],
        "plans": PLANS,
        "batch_size": 6,
        "new_tokens": 1,
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(data))
    return path
