"""Runners and reporters as plugs, and what a cell looks like on its way to another machine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import Field

from tests.studies.test_studies import change
from tokenprune import hookimpl
from tokenprune.errors import BackendUnavailableError, PlanError, PluginError, UnknownNameError
from tokenprune.lab.kinds import RUNNERS
from tokenprune.lab.measure.environment import describe_environment
from tokenprune.lab.studies import Cell, LocalRunner, Study, cells, load_study
from tokenprune.lab.studies.model import ModelEntry, TaskEntry
from tokenprune.lab.studies.packing import pack, unpack
from tokenprune.lab.studies.plugs import make_reporter, make_runner
from tokenprune.lab.studies.ray_runner import RayRunner, needed_code, work
from tokenprune.lab.studies.runners import Outcome
from tokenprune.plan import load_plan
from tokenprune.plugins.host import host, register_plugin


@dataclass(frozen=True)
class Backwards:
    """Runs the last cell first."""

    name: ClassVar[str] = "backwards"

    most: Annotated[int, Field(ge=1)] = 9

    def run(self, cells: Sequence[Cell], study: Study) -> Iterator[Outcome]:
        return LocalRunner().run(list(cells)[: -self.most - 1 : -1], study)


class Plugin:
    def __init__(self, kind: Any) -> None:
        self.kind = kind

    @hookimpl
    def register_runners(self, register: Callable[[Any], None]) -> None:
        register(self.kind)


def test_a_plugins_runner_is_found_by_name_and_leaves_with_it() -> None:
    with register_plugin(Plugin(Backwards), "back"):
        assert make_runner("backwards", {"most": "3"}) == Backwards(3)
        (info,) = [info for info in host().infos() if info.name == "back"]
        assert info.brought == {"runners": ("backwards",)}
    assert set(host().things(RUNNERS)) == {"local", "ray"}


class Plain:
    name, run = "plain", None


@dataclass
class Second:
    name: ClassVar[str] = "local"

    def run(self, *_: object) -> None: ...


@dataclass
class Idle:
    name: ClassVar[str] = "idle"


@pytest.mark.parametrize(
    ("kind", "words"),
    [(Plain, "dataclass"), (Idle, "it lacks run"), (Second, "'local' is taken"), (3, "dataclass")],
)
def test_what_is_no_runner(kind: object, words: str) -> None:
    with pytest.raises(PluginError, match=words):
        register_plugin(Plugin(kind), "odd")


@pytest.mark.parametrize(
    ("name", "options", "kind", "words"),
    [
        ("loca", {}, UnknownNameError, "Did you mean 'local'"),
        ("local", {"job": 2}, UnknownNameError, "Did you mean 'jobs'"),
        ("local", {"jobs": "0"}, PlanError, "jobs: .* greater than or equal to 1"),
        ("local", {"jobs": "many"}, PlanError, "jobs: .*integer"),
    ],
)
def test_options_are_checked(
    name: str, options: dict[str, object], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        make_runner(name, options)
    assert make_runner("local", {"jobs": "2"}) == LocalRunner(2)


@pytest.mark.parametrize("name", ["ray", "trackio", "mlflow", "wandb"])
def test_a_missing_library_is_said_before_anything_runs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    make: Callable[[str], object] = make_runner if name == "ray" else make_reporter
    with pytest.raises(
        BackendUnavailableError, match=rf"pip install -e '\.\[{name}\]' in the folder"
    ):
        make(name)


def test_a_cell_survives_its_journey(study: Path) -> None:
    loaded = load_study(study)
    for cell in cells(loaded):
        there, settings = unpack(json.loads(json.dumps(pack(cell, loaded))))
        assert (there.number, there.name, there.plan) == (cell.number, cell.name, cell.plan)
        assert (there.model, there.task) == (cell.model, cell.task)
        assert (settings.batch_size, settings.new_tokens) == (6, 1)


def test_paths_do_not_depend_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model", "weights.bin", "asked.jsonl", "trained.safetensors"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    learned = {
        "at": "decoder",
        "strategy": "dyvte",
        "params": {"checkpoint": "trained.safetensors"},
    }
    shipped = {**learned, "layer": 3, "params": {"checkpoint": "bundled:any"}}
    for stage, wanted in (
        (learned, str(tmp_path / "trained.safetensors")),
        (shipped, "bundled:any"),
    ):
        plan = load_plan({"stages": [stage]})
        model = ModelEntry(name="model", weights=Path("weights.bin"))
        task = TaskEntry(kind="jsonl", path=Path("asked.jsonl"))
        study = Study(out=Path("out"), plans=({"plan": {}},))
        packed = pack(Cell(0, model, task, "learned", plan), study)
        monkeypatch.chdir(os.sep)
        there, _ = unpack(packed)
        assert there.model.name == str(tmp_path / "model")
        assert there.model.weights == tmp_path / "weights.bin"
        assert there.task.path == tmp_path / "asked.jsonl"
        assert there.plan.stages[0].params["checkpoint"] == wanted
        monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("name", "local"), [("questions", True), ("someone/questions", False)])
def test_a_dataset_in_a_folder_is_found_from_anywhere(
    name: str, local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "questions").mkdir()
    monkeypatch.chdir(tmp_path)
    task = TaskEntry(kind="dataset", dataset=name)
    study = Study(out=Path("out"), plans=({"plan": {}},))
    there, _ = unpack(pack(Cell(0, ModelEntry(), task, "dense", load_plan({})), study))
    assert there.task.dataset == (str(tmp_path / name) if local else name)


def test_a_worker_that_is_not_like_the_driver_refuses(study: Path) -> None:
    change(study, plans=[{"plan": {"stages": []}, "name": "empty"}])
    loaded = load_study(study)
    packed = pack(cells(loaded)[0], loaded)
    status, result = work(packed, {"torch": "0.1"}, {})
    assert status == "failed"
    assert "instead of 0.1" in result["reason"]
    packages = describe_environment()["packages"]
    status, result = work(packed, packages, {"tokenprune": "another"})
    assert status == "failed"
    assert "other code: tokenprune " in result["reason"]
    assert work(packed, packages, needed_code(cells(loaded)[0]))[0] == "done"


def test_a_worker_without_the_plugin_says_so(study: Path) -> None:
    loaded = load_study(study)
    packed = pack(cells(loaded)[1], loaded)
    packed["plan"]["stages"][0]["strategy"] = "elsewhere"
    status, result = work(packed, describe_environment()["packages"], {})
    assert status == "failed"
    assert "no strategy 'elsewhere'" in result["reason"]


def test_ray_is_not_asked_when_nothing_is_to_be_run(study: Path) -> None:
    if util.find_spec("ray") is None:
        pytest.skip("Ray isn't installed (extra 'ray')")
    assert list(RayRunner(address="nowhere:1").run([], load_study(study))) == []
