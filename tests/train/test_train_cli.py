from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokenprune.cli import app
from tokenprune.lab.measure.locks import locked
from tokenprune.lab.train.run import LOCK

PLAN = "stages: [{at: pre_llm, strategy: vistog, keep: 4}]"


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as left:
        app([str(arg) for arg in args])
    return int(left.value.code or 0)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return path


def test_train_leaves_weights_a_plan_and_a_record(
    tmp_path: Path, plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    args = ("--steps", 2, "--batch-size", 4, "--per-picture", 2, "--limit", 4)
    assert run("train", "vistog", "--plan", plan, "--out", out, *args) == 0
    assert "held-out accuracy" in capsys.readouterr().out
    data = json.loads((out / "training.json").read_text())
    assert data["heldout"]["questions"] == 4
    assert data["heldout"]["tokens"]["llm"] == 4
    assert run("validate", out / "plan.yaml") == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("train", "fastv"), "has nothing to train"),
        (("train", "vistgo"), "vistog"),
        (("train", "vistog", "--batch-size", "10", "--per-picture", "4"), "multiple"),
        (("train", "vistog", "--data", "none.jsonl"), "none.jsonl"),
        (("train", "vistog", "--seed", "90210"), "held-out questions"),
    ],
)
def test_bad_input_is_said_in_a_sentence(
    args: tuple[str, ...],
    said: str,
    tmp_path: Path,
    plan: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(*args, "--plan", plan, "--out", tmp_path / "out", "--limit", 0) == 2
    assert said in capsys.readouterr().err


def test_a_folder_in_use_is_named(
    tmp_path: Path, plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    args = ("train", "vistog", "--plan", plan, "--out", out, "--limit", 0, "--steps", 1)
    with locked(out / LOCK):
        assert run(*args) == 2
    said = capsys.readouterr().err
    assert f"{out}\nanother run is training into this folder" in said
    assert "use another --out" in said
    assert not (out / "training.json").exists()
