"""A checkpoint knows its model, and the plan beside it works from everywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.train.tiny import picture, run, tiny
from tokenprune.cli.app import app
from tokenprune.errors import CheckpointError
from tokenprune.lab.bench.run import bench
from tokenprune.lab.bench.settings import BenchSettings
from tokenprune.lab.drawing.show import show
from tokenprune.lab.train import Trained
from tokenprune.lab.trained import check_trained_for
from tokenprune.lab.verify.run import verify
from tokenprune.plan import Plan, load_plan

KINDS = ("vistog", "quecc", "covipal_style", "dyvte")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run("vistog", tmp_path_factory.mktemp("run"), steps=1)


def other() -> Any:
    """A model of the same widths with other weights."""
    return replace(tiny(), name="other", fingerprint=lambda: "0123456789abcdef")


@pytest.mark.parametrize("kind", KINDS)
def test_another_model_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    plan = load_plan(run(kind, tmp_path, steps=4).plan)
    check_trained_for(tiny(), plan)
    with pytest.raises(CheckpointError) as caught:
        check_trained_for(other(), plan)
    for word in (
        "'tiny'",
        "'other' (0123456789ab...)",
        "stages.0.params.checkpoint",
        "other_model",
    ):
        assert word in str(caught.value)
    allowed = load_plan(plan, overrides=["stages.0.params.other_model=true"])
    check_trained_for(other(), allowed)


def test_every_command_looks(trained: Trained) -> None:
    plan, foreign = load_plan(trained.plan), other()
    for call in (
        lambda: show(foreign, plan, [("a", picture(0))], question="what"),
        lambda: bench(foreign, [("a", plan)], [], BenchSettings()),
        lambda: verify(foreign, plan, []),
    ):
        with pytest.raises(CheckpointError, match="trained for the model 'tiny'"):
            call()
    allowed = load_plan(plan, overrides=["stages.0.params.other_model=true"])
    assert show(foreign, allowed, [("a", picture(0))], question="what").width > 0


def test_a_comparison_ends_with_exit_code_2(trained: Trained, tmp_path: Path) -> None:
    command = f"compare --task image --limit 2 --plans {trained.plan} --out {tmp_path / 'out.json'}"
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "trained for the model 'tiny'" in " ".join(result.output.split())


def test_bundled_checkpoints_fit_the_bundled_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenprune.lab.models import load_model, load_options
    from tokenprune.reference import reference_model_path, video_model_path

    given = {"checkpoint": "bundled:reference-16"}
    plan = load_plan(
        {"stages": [{"at": "pre_llm", "strategy": "vistog", "keep": 16, "params": given}]}
    )
    check_trained_for(load_model(str(reference_model_path()), load_options("cpu")), plan)
    with pytest.raises(CheckpointError, match=r"'reference'.*'video model'"):
        check_trained_for(load_model(str(video_model_path()), load_options("cpu")), plan)


def test_the_plan_works_from_everywhere_and_after_a_move(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "checkpoint: vistog.safetensors" in trained.plan.read_text()
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in (trained.plan, trained.checkpoint):
        (moved / file.name).write_bytes(file.read_bytes())
    (tmp_path / "upon.yaml").write_text("extends: moved/plan.yaml\nseed: 3\n")
    for place in (tmp_path, Path("/")):
        monkeypatch.chdir(place)
        for plan in (load_plan(moved / "plan.yaml"), load_plan(tmp_path / "upon.yaml")):
            assert plan.stages[0].params["checkpoint"] == str(moved / "vistog.safetensors")
    monkeypatch.chdir(moved)
    assert load_plan("plan.yaml").stages[0].params["checkpoint"] == "vistog.safetensors"


def test_the_working_directory_is_looked_in_after_the_plans_folder(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("plans", "work"):
        (tmp_path / folder).mkdir()
    text = trained.plan.read_text()
    (tmp_path / "plans" / "plan.yaml").write_text(text)
    (tmp_path / "work" / "vistog.safetensors").write_bytes(trained.checkpoint.read_bytes())
    monkeypatch.chdir(tmp_path / "work")
    plan: Plan = load_plan("../plans/plan.yaml")
    assert plan.stages[0].params["checkpoint"] == "vistog.safetensors"
    check_trained_for(tiny(), plan)


def test_other_stages_keep_their_files(trained: Trained, tmp_path: Path) -> None:
    from tokenprune.lab.train.stage import with_absolute_files

    plan = with_absolute_files(load_plan(trained.plan))
    assert plan.stages[0].params["checkpoint"] == str(trained.checkpoint.resolve())
