"""Reporters: what they are told, and that none of them harms a study."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tokenprune import hookimpl
from tokenprune.errors import PlanError, PluginError, UnknownNameError
from tokenprune.lab.studies import load_study, run_study
from tokenprune.lab.studies.plugs import make_reporter, named
from tokenprune.lab.studies.reporters import CellReport, Closing, Opening
from tokenprune.plugins.host import host, register_plugin

NUMBERS = {"accuracy": 0.5, "tokens/llm": 8.0}
CONFIG = {"name": "picked", "plan": {"stages": [{"keep": 8}]}, "weights": "ab"}
DONE = CellReport("picked, image, m", "key1", "done", "", NUMBERS, CONFIG)
FAILED = CellReport("lost, image, m", "key2", "failed", "out of luck", {}, CONFIG)


@dataclass
class Toy:
    name: ClassVar[str] = "toy"

    breaks: str = ""
    heard: list[Any] = field(default_factory=list)

    def started(self, opening: Opening) -> None:
        self._hear("started", opening)

    def finished(self, cell: CellReport) -> None:
        self._hear("finished", cell)

    def ended(self, closing: Closing) -> None:
        self._hear("ended", closing)

    def _hear(self, what: str, said: object) -> None:
        if what == self.breaks:
            raise OSError("no route")
        self.heard.append(said)


class Plugin:
    def __init__(self, kind: Any) -> None:
        self.kind = kind

    @hookimpl
    def register_reporters(self, register: Callable[[Any], None]) -> None:
        register(self.kind)


@pytest.mark.usefixtures("replayed")
def test_a_reporter_is_told_of_every_cell_once(study: Path) -> None:
    loaded, toy, later = load_study(study), Toy(), Toy()
    done = run_study(loaded, reporters=[toy])
    run_study(loaded, reporters=[later])
    opening, *cells, closing = toy.heard
    assert (opening.study, opening.cells) == ("study", tuple(done.ran))
    assert [cell.label for cell in cells] == done.ran
    assert [cell.key for cell in cells] == [record.key for record in done.records]
    assert closing == Closing(ran=5, failed=0, complete=True)
    assert cells[1].numbers["tokens/llm"] == 8
    samples = done.records[1].result["samples"]
    assert cells[1].numbers["accuracy"] == sum(s["right"] for s in samples) / len(samples)
    assert later.heard == [Opening("study", str(loaded.out), ()), Closing(0, 0, True)]


@pytest.mark.parametrize("breaks", ["started", "finished", "ended"])
@pytest.mark.usefixtures("replayed")
def test_a_failing_reporter_is_one_warning_and_loses_nothing(study: Path, breaks: str) -> None:
    good = Toy()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        done = run_study(load_study(study), reporters=[Toy(breaks), good])
    mine = [str(one.message) for one in caught if "reporter 'toy'" in str(one.message)]
    assert len(mine) == 1
    assert "OSError: no route" in mine[0]
    assert (len(done.records), done.failed, len(good.heard)) == (5, {}, 7)


def test_failures_and_broken_off_studies_are_told(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenprune_strategies.baselines import Uniform

    def broken(*_: object) -> None:
        raise ValueError("out of luck")

    def stop(done: int, *_: object) -> None:
        if done == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Uniform, "reduce", broken)
    toy = Toy()
    with pytest.raises(KeyboardInterrupt):
        run_study(load_study(study), tell=stop, reporters=[toy])
    *_, failed, closing = toy.heard
    assert (failed.status, failed.numbers) == ("failed", {})
    assert "out of luck" in failed.reason
    assert closing == Closing(ran=3, failed=1, complete=False)


def test_a_plugins_reporter_is_found_by_name_and_leaves_with_it() -> None:
    with register_plugin(Plugin(Toy), "told"):
        assert make_reporter("toy", {"breaks": "ended"}) == Toy("ended")
        (info,) = [info for info in host().infos() if info.name == "told"]
        assert info.brought == {"reporters": ("toy",)}
    with pytest.raises(UnknownNameError, match="no reporter 'toy'"):
        make_reporter("toy")
    with pytest.raises(PluginError, match="it lacks started, finished, ended"):
        register_plugin(Plugin(dataclass(type("Mute", (), {"name": "mute"}))), "mute")


def test_names_with_options() -> None:
    assert named("ray:address=ray://head:1, num_gpus=1") == (
        "ray",
        {"address": "ray://head:1", "num_gpus": "1"},
    )
    assert named("local") == ("local", {})
    with pytest.raises(PlanError, match="'project' has no value"):
        named("wandb:project")


class Library(types.ModuleType):
    """Writes down what is called."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.fails = ""
        find = util.find_spec
        monkeypatch.setitem(sys.modules, name, self)
        monkeypatch.setattr(util, "find_spec", lambda asked: asked == name or find(asked))

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> None:
            self.calls.append((name, args, kwargs))
            if name == self.fails:
                raise OSError("no route")

        return call


def told(name: str, *cells: CellReport) -> None:
    reporter = make_reporter(name, {"project": "mine"})
    reporter.started(Opening("study", "records", tuple(cell.label for cell in cells)))
    for cell in cells:
        reporter.finished(cell)
    reporter.ended(Closing(len(cells), 0, True))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_one_run_a_cell(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(name, monkeypatch)
    told(name, DONE, FAILED)
    assert [call[0] for call in library.calls] == ["init", "log", "finish", "init", "finish"]
    first, failed = library.calls[0][2], library.calls[3][2]
    assert (first["project"], first["name"]) == ("mine", DONE.label)
    assert first["config"] == {**CONFIG, "key": "key1", "status": "done", "reason": ""}
    assert failed["config"]["reason"] == "out of luck"
    assert library.calls[1][1] == (NUMBERS,)
    codes = [call[2].get("exit_code") for call in library.calls if call[0] == "finish"]
    assert codes == ([0, 1] if name == "wandb" else [None, None])


def test_mlflow_gets_flat_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library("mlflow", monkeypatch)
    told("mlflow", DONE, FAILED)
    calls = [call[0] for call in library.calls]
    assert calls[:5] == ["set_experiment", "start_run", "log_params", "log_metrics", "end_run"]
    assert library.calls[0][1] == ("mine",)
    assert library.calls[2][1] == ({"name": "picked", "plan.stages.0.keep": "8", "weights": "ab"},)
    assert library.calls[3][1] == (NUMBERS,)
    ends = [call[1] for call in library.calls if call[0] == "end_run"]
    assert ends == [("FINISHED",), ("FAILED",)]


@pytest.mark.parametrize(("name", "fails"), [("wandb", "log"), ("mlflow", "log_metrics")])
def test_a_run_is_ended_even_if_logging_fails(
    name: str, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(name, monkeypatch)
    library.fails = fails
    with pytest.raises(OSError, match="no route"):
        told(name, DONE)
    assert library.calls[-1][0] in ("finish", "end_run")


def test_trackio_itself_without_a_network(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    trackio = pytest.importorskip("trackio", reason="Trackio isn't installed (extra 'trackio')")
    if Path(trackio.utils.TRACKIO_DIR) != tmp_path / "trackio":
        pytest.skip("Trackio was imported before and keeps its folder")
    done = run_study(load_study(study), reporters=[make_reporter("trackio")])
    runs = {run.name: run for run in trackio.Api().runs("study")}
    assert set(runs) == set(done.ran)
    configs = {run.config["key"] for run in runs.values()}
    assert configs == {record.key for record in done.records}
    from trackio.sqlite_storage import SQLiteStorage

    (logged,) = SQLiteStorage.get_logs("study", done.ran[1])
    assert logged["tokens/llm"] == 8


@pytest.mark.usefixtures("replayed")
def test_the_command_line_names_runner_and_reporters(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.cli.test_commands import run

    heard: list[Any] = []
    monkeypatch.setattr(Toy, "_hear", lambda self, what, said: heard.append((self.breaks, said)))
    with register_plugin(Plugin(Toy), "told"):
        told_by = ["--reporter", "toy", "--reporter", "toy:breaks=nothing"]
        code, out, _ = run("study", study, "--runner", "local:jobs=1", *told_by)
    assert code == 0, out
    assert [breaks for breaks, _ in heard] == ["", "nothing"] * 7


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--runner", "rya"], "Did you mean 'ray'"),
        (["--runner", "local:job=2"], "Did you mean 'jobs'"),
        (["--reporter", "wand"], "Did you mean 'wandb'"),
        (["--reporter", "toy"], "no reporter 'toy'"),
    ],
)
def test_bad_names_end_it_before_anything_runs(study: Path, options: list[str], words: str) -> None:
    from tests.cli.test_commands import run

    code, _, said = run("study", study, *options)
    assert code == 2
    assert words in said
    assert not (study.parent / "records").exists()


@pytest.mark.parametrize("option", ["--runner", "--reporter"])
def test_both_go_with_a_study_only(option: str) -> None:
    from tests.cli.test_commands import run

    code, _, said = run("compare", option, "local")
    assert (code, option in said) == (2, True)
