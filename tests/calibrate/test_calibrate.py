"""Calibrating a tiny model: the border, its records, and the plan that is written."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.compare.clips import save_frames
from tests.compare.tiny import save_llava, save_pictures
from tests.models import PATCHES
from tokenprune.cli import app
from tokenprune.errors import DataError, PlanError
from tokenprune.lab.calibrate import Flops, Target, Time, Within, calibrate
from tokenprune.lab.calibrate.budgets import budgets_of
from tokenprune.lab.studies import Cell, Study, runners
from tokenprune.lab.studies.model import ModelEntry, TaskEntry
from tokenprune.plan import Average, load_plan


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model answers until it is stopped."""
    monkeypatch.setattr("tokenprune.lab.studies.model.LONG", 1)


@pytest.fixture(scope="module", autouse=True)
def _measured_once() -> Iterator[None]:
    """Every keep is measured once for all tests, whatever folder it is recorded in."""
    known: dict[str, Any] = {}
    execute = runners.execute

    def once(cell: Cell, study: Study) -> Any:
        key = repr((cell.model, cell.task, cell.plan, study.batch_size, study.seed))
        if key not in known:
            known[key] = execute(cell, study)
        return copy.deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(runners, "execute", once)
        yield


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Target:
    """A random LLaVA and four questions about two pictures."""
    model = save_llava(tmp_path_factory.mktemp("llava"))
    folder = save_pictures(tmp_path_factory.mktemp("data"), 2)
    rows = [
        {"image": f"{number % 2}.png", "question": "what is the shape ?", "answer": "yes"}
        for number in range(4)
    ]
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = TaskEntry(kind="jsonl", path=folder / "asked.jsonl")
    return Target(ModelEntry(name=str(model)), task, folder / "records", batch_size=4)


@pytest.fixture
def answered(asked: Target, tmp_path: Path) -> Target:
    """The same questions, of which the model without a plan answers all right."""
    calibrate(asked, budgets_of(load_plan(staged(8)), None), Flops(0.9))
    cells = [json.loads(path.read_text()) for path in asked.records.glob("cells/*.json")]
    (dense,) = (cell for cell in cells if cell["identity"]["name"] == "dense")
    assert asked.task.path is not None
    rows = [json.loads(line) for line in asked.task.path.read_text().splitlines()]
    for row, sample in zip(rows, dense["result"]["samples"], strict=True):
        row["answer"] = sample["answer"]
    path = asked.task.path.with_name(f"{tmp_path.name}.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return replace(asked, task=TaskEntry(kind="jsonl", path=path), records=tmp_path / "records")


def staged(keep: object, at: str = "pre_llm", **more: object) -> dict[str, object]:
    return {"stages": [{"at": at, "strategy": "uniform", "keep": keep, **more}]}


def test_the_largest_keep_within_flops_is_the_border(asked: Target) -> None:
    budgets = budgets_of(load_plan(staged(8)), None)
    found = calibrate(asked, budgets, Flops(0.9))
    assert found.chosen is not None
    assert found.plan is not None
    assert found.plan.stages[0].keep == found.chosen
    assert found.tried[found.chosen].flops_ratio <= 0.9 < found.tried[found.chosen + 1].flops_ratio
    # everything that was tried is recorded, dense beside it: none of it runs again
    cells = {path: path.stat().st_mtime_ns for path in asked.records.glob("cells/*.json")}
    assert len(cells) == len(found.tried) + 1
    again = calibrate(asked, budgets, Flops(0.9))
    assert again.chosen == found.chosen
    assert cells == {path: path.stat().st_mtime_ns for path in asked.records.glob("cells/*.json")}


def test_the_smallest_keep_within_any_loss_is_one(answered: Target) -> None:
    found = calibrate(answered, budgets_of(load_plan(staged(8)), None), Within(100))
    assert found.chosen == 1


def test_no_loss_is_looked_for_where_nothing_is_right(asked: Target, tmp_path: Path) -> None:
    """Every keep would hold, and the smallest would be recommended."""
    out, plan = tmp_path / "found.yaml", tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(staged(8)))
    given = ["calibrate", asked.model.name, str(plan), "--data", str(asked.task.path)]
    given += ["--records", str(tmp_path / "records"), "--out", str(out), "--within", "1"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert "the dense model answers nothing right on 4 samples" in said
    assert "ask for answers as short as the data's" in said
    assert not out.exists()


@pytest.mark.parametrize(("share", "beyond"), [(0.9, "above"), (0.6, "below")])
def test_the_search_goes_on_from_the_keep_of_the_plan(
    asked: Target, share: float, beyond: str
) -> None:
    """A keep that was measured already says on which side of it the border lies."""
    found = calibrate(asked, budgets_of(load_plan(staged(8)), None), Flops(share))
    assert found.chosen is not None
    others = set(found.tried) - {8}
    assert all(number > 8 for number in others) if beyond == "above" else max(others) < 8


def test_no_keep_holds(asked: Target) -> None:
    found = calibrate(asked, budgets_of(load_plan(staged(8)), None), Flops(0.001))
    assert found.chosen is None
    assert found.plan is None


def test_only_budgets_that_the_model_can_serve_are_tried(answered: Target) -> None:
    """A mean over the layers is at least what the layers before the stage see."""
    budgets = budgets_of(load_plan(staged({"average": 12}, "decoder", layer=1)), None)
    found = calibrate(answered, budgets, Within(100))
    assert found.chosen is not None
    assert found.chosen > 1
    assert min(found.tried) == found.chosen
    assert max(found.tried) <= PATCHES


@pytest.mark.parametrize(
    ("keep", "number", "changed"),
    [(8, 8, 3), (0.25, 25, 0.03), ({"average": 12}, 12, Average(average=3))],
)
def test_a_budget_stays_of_its_kind(keep: object, number: int, changed: object) -> None:
    budgets = budgets_of(load_plan(staged(keep)), None)
    assert budgets.own == number
    assert budgets.at(3).stages[0].keep == changed


def test_the_stage_has_to_be_clear() -> None:
    first = {"at": "encoder", "strategy": "tome", "keep": 12}
    two = load_plan({"stages": [first, *staged(8)["stages"]]})  # type: ignore[misc]
    with pytest.raises(PlanError, match="2 stages") as error:
        budgets_of(two, None)
    assert "--stage: 0, 1" in str(error.value)
    assert budgets_of(two, 1).at(4).stages[1].keep == 4
    with pytest.raises(PlanError, match="no stage 2"):
        budgets_of(two, 2)


def test_the_command_writes_the_plan(asked: Target, tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.yaml", tmp_path / "found.yaml"
    plan.write_text(yaml.safe_dump({"schema_version": 1, "name": "eight", **staged(8)}))
    given = ["calibrate", asked.model.name, str(plan), "--data", str(asked.task.path)]
    given += ["--records", str(asked.records), "--out", str(out), "--batch-size", "4"]
    done = CliRunner().invoke(app, [*given, "--flops", "0.9"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "The largest keep that holds is" in done.output
    assert load_plan(out).name == "eight, calibrated"
    kept = load_plan(out).stages[0].keep
    assert f"holds is {kept}: accuracy" in done.output
    # it is replaced only if that is asked for
    before = out.read_text()
    done = CliRunner().invoke(app, [*given, "--flops", "0.95"])
    assert (done.exit_code, out.read_text()) == (2, before)
    assert "replace it with --force" in " ".join(done.output.split())
    given.append("--force")
    # nothing holds: nothing is written, and the plan of before is named
    done = CliRunner().invoke(app, [*given, "--flops", "0.001"])
    assert done.exit_code == 1
    assert "No keep holds, not even 1: FLOPs at most 0.001 of dense." in done.output
    said = f"No plan was written; {out} is of an earlier run and was left as it was."
    assert said in "".join(done.output.splitlines())
    assert out.read_text() == before
    out.unlink()
    done = CliRunner().invoke(app, [*given, "--flops", "0.001"])
    assert done.exit_code == 1
    assert "No plan was written." in done.output
    assert not out.exists()
    for wrong in ([], ["--flops", "0.5", "--within", "1"], ["--flops", "0.5", "--sure"]):
        assert CliRunner().invoke(app, [*given, *wrong]).exit_code == 2


def test_questions_about_videos(asked: Target, tmp_path: Path) -> None:
    """Keeps count per frame, and the plan that is written takes frames as it was measured."""
    save_frames(tmp_path / "clip", 3)
    data, plan, out = (tmp_path / name for name in ("asked.jsonl", "plan.yaml", "found.yaml"))
    data.write_text('{"video": "clip", "question": "what is the shape ?", "answer": "yes"}\n')
    plan.write_text(yaml.safe_dump({"schema_version": 1, **staged(8)}))
    given = ["calibrate", asked.model.name, str(plan), "--flops", "0.9", "--frames", "2"]
    done = CliRunner().invoke(app, given, env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert "frames are taken of the videos of your own questions" in " ".join(done.output.split())
    given += ["--data", str(data), "--records", str(tmp_path / "kept"), "--out", str(out)]
    done = CliRunner().invoke(app, given, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert load_plan(out).images == "frames"
    found = [json.loads(path.read_text()) for path in (tmp_path / "kept").glob("cells/*.json")]
    assert {one["identity"]["task"]["frames"] for one in found} == {2}


def test_times_of_one_batch_are_refused_before_they_are_measured(
    asked: Target, tmp_path: Path
) -> None:
    budgets = budgets_of(load_plan(staged(8)), None)
    records = tmp_path / "records"
    with pytest.raises(DataError, match="4 samples in batches of 4 make one batch") as error:
        calibrate(replace(asked, records=records), budgets, Time(0.5, sure=True))
    assert "Ask 6 samples or more" in error.value.remedy
    task = asked.task.model_copy(update={"kind": "image", "path": None, "limit": 12})
    bundled = Target(ModelEntry(name="reference"), task, records)
    with pytest.raises(DataError, match="12 samples in batches of 16 make one batch") as error:
        calibrate(bundled, budgets, Time(0.5, sure=True))
    assert "--batch-size 2 or smaller" in error.value.remedy
    assert not records.exists()


def test_every_keep_is_a_line_with_the_time_left(asked: Target, tmp_path: Path) -> None:
    budgets = budgets_of(load_plan(staged(8)), None)
    fresh, lines, told = replace(asked, records=tmp_path), [], []

    def progress(done: int, most: int, what: str) -> None:
        told.append((done, most, what))

    found = calibrate(fresh, budgets, Flops(0.9), progress=progress, say=lines.append)
    first, more, *others = lines
    assert re.fullmatch(r"keep 8: accuracy .* points against dense \[.*\], FLOPs .*: holds", first)
    assert re.fullmatch(r"at most \d+ more keeps to try, about 0 min \d+ s", more)
    assert len(others) == len(found.tried) - 1
    most = int(more.split()[2]) + 1
    assert others[0].startswith(f"2 of at most {most}: keep 36: ")
    assert "doesn't hold" in others[0]
    assert re.search(r"; about 0 min \d+ s left$", others[0])
    assert told[0] == (0, 1, "keep 8")
    assert told[-1][0] == len(found.tried) <= most == told[-1][1]
    again: list[str] = []
    calibrate(fresh, budgets, Flops(0.9), say=again.append)
    assert all("hold, recorded before" in line or "holds, r" in line for line in again[2:])
    assert not any("left" in line for line in again)


def test_ctrl_c_says_what_is_kept(
    asked: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, records, out = tmp_path / "plan.yaml", tmp_path / "records", tmp_path / "found.yaml"
    plan.write_text(yaml.safe_dump({"schema_version": 1, **staged(8)}))
    given = ["calibrate", asked.model.name, str(plan), "--data", str(asked.task.path)]
    given += ["--records", str(records), "--out", str(out), "--batch-size", "4", "--flops", "0.9"]
    execute, ran = runners.execute, []

    def interrupted(*cell: Any) -> Any:
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append(cell)
        return execute(*cell)

    with monkeypatch.context() as patched:
        patched.setattr(runners, "execute", interrupted)
        done = CliRunner().invoke(app, given)
    assert done.exit_code == 130
    said = " ".join(done.output.split())
    assert "2 keeps were tried to the end. No plan was written. The same command" in said
    before = {path: path.stat().st_mtime_ns for path in records.glob("cells/*.json")}
    assert len(before) == 3  # dense and two keeps
    assert CliRunner().invoke(app, given).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_plan_in_the_place_of_the_model_is_told_the_order(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(staged(8)))
    result = CliRunner().invoke(app, ["calibrate", str(plan), "reference", "--within", "1"])
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert "the model comes first" in said
    assert f"tokenprune calibrate reference {plan.name}" in said.replace(f"{tmp_path}/", "")
