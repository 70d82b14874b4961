from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.models import llava_clip
from tests.processes import started
from tests.train.tiny import KEEPS, plan, prepare, run, tiny
from tests.train.tiny import picture as noise
from tokenprune import attach
from tokenprune.errors import BackendUnavailableError, CheckpointError, DataError, PlanError
from tokenprune.lab.measure.telling import Tell
from tokenprune.lab.train import TrainSettings, state, train
from tokenprune.lab.train.state import StateFolder
from tokenprune.plan import load_plan

STRATEGIES = sorted(KEEPS)


class Stopped(Exception):
    pass


def stop_at(step: int) -> Tell:
    def tell(done: int, total: int, label: str) -> None:
        if done == step:
            raise Stopped

    return tell


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def traces(model: nn.Module) -> list[tuple[str, list[str], int, bool]]:
    return [
        (name, sorted(module.__dict__), len(module._forward_hooks), module.training)
        for name, module in model.named_modules()
    ]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_batch_is_learned_by_heart_and_the_model_stays(strategy: str, tmp_path: Path) -> None:
    model = llava_clip()
    model(**prepare([noise(0)], ["what is it"]))  # the library marks its modules on first use
    before = {name: value.clone() for name, value in model.state_dict().items()}
    marks = traces(model)
    done = run(strategy, tmp_path, loaded=tiny(model), steps=24, fresh=False, lr=5e-3)

    phases: dict[str, list[float]] = {}
    for point in done.data["curve"]:
        phases.setdefault(point["phase"], []).append(point["loss"])
    assert len(phases) == len(done.data["phases"])
    if strategy != "dyvte":  # a gate is drawn for every step; see the test of its labels
        assert all(min(losses[-2:]) < losses[0] for losses in phases.values())
    else:
        losses = phases["answers"]
        assert sum(losses[-8:]) < sum(losses[:8])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert traces(model) == marks
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_written_plan_runs(strategy: str, tmp_path: Path) -> None:
    model = llava_clip()
    done = run(strategy, tmp_path, loaded=tiny(model), steps=4)
    written = load_plan(done.plan)
    assert written.stages[0].params["checkpoint"] == str(done.checkpoint)
    with attach(model, written) as handle:
        model(**prepare([noise(0)], ["what is it"]))
        kept = KEEPS[strategy]
        if kept is not None:
            assert handle.trace.images[0].kept == kept


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_stopped_run_ends_like_one_that_was_not(strategy: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    straight = run(strategy, whole)
    for step in (3, 5):
        with pytest.raises(Stopped):
            run(strategy, parts, tell=stop_at(step))
    resumed = run(strategy, parts)
    assert same(whole, parts)
    assert resumed.data["curve"] == straight.data["curve"]
    assert resumed.data["starts"] == 3


def killed_while_saving(out: Path) -> None:
    """Train, and die before the second state that is complete gets its name."""
    plain, calls = os.rename, list[Any]()

    def rename(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        plain(*args)

    state.os.rename = rename  # type: ignore[attr-defined]
    run("vistog", out)


def test_a_run_killed_while_it_saves_goes_on_from_the_state_before(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run("vistog", whole)
    process = started(killed_while_saving, parts)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    left = sorted(path.name for path in (parts / "state").iterdir())
    assert left == ["partial-00000004", "step-00000002"]
    assert run("vistog", parts).data["starts"] == 2
    assert same(whole, parts)
    left = sorted(path.name for path in (parts / "state").iterdir())
    assert left == ["step-00000004", "step-00000006"]


def test_other_settings_are_refused_unless_it_starts_again(tmp_path: Path) -> None:
    run("vistog", tmp_path, steps=2)
    with pytest.raises(DataError, match=r"other settings: lr was 0\.001 and is 0\.002"):
        run("vistog", tmp_path, steps=2, lr=2e-3)
    assert run("vistog", tmp_path, steps=2, lr=2e-3, restart=True).data["starts"] == 1


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    run("vistog", tmp_path, steps=2)
    state = StateFolder(tmp_path, {}).complete()[0]
    assert state is not None
    (state / "progress.json").write_text("{")
    with pytest.raises(CheckpointError, match="state of the run can't be read"):
        run("vistog", tmp_path, steps=2)


def test_the_record_says_what_was_done(tmp_path: Path) -> None:
    done = run("covipal_style", tmp_path, steps=4)
    data = json.loads(done.record.read_text())
    assert data == json.loads(json.dumps(done.data))
    assert [point["phase"] for point in data["curve"]] == ["guidance"] * 2 + ["answers"] * 2
    assert data["checkpoint"]["bytes"] == done.checkpoint.stat().st_size
    assert data["heldout"] is None


def test_a_checkpoint_is_a_start(tmp_path: Path) -> None:
    first = run("vistog", tmp_path / "a", steps=2)
    settings = TrainSettings(steps=1, batch_size=2, shared=1, lr=0.0, weight_decay=0.0)
    from tests.train.tiny import ByHeart

    train(tiny(), "vistog", load_plan(first.plan), tmp_path / "b", ByHeart(), settings)
    assert same(tmp_path / "a", tmp_path / "b")


def test_half_precision_weights_are_half_as_large(tmp_path: Path) -> None:
    from tests.train.tiny import ByHeart

    settings = TrainSettings(steps=1, batch_size=2, shared=1, precision="float16")
    train(tiny(), "vistog", plan("vistog"), tmp_path, ByHeart(), settings)
    assert {value.dtype for value in weights(tmp_path).values()} == {torch.float16}


def test_without_accelerate_the_install_command_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(
        BackendUnavailableError, match=r"pip install -e '\.\[train\]' in the folder"
    ):
        run("vistog", tmp_path)


def test_what_has_nothing_to_train_is_refused(tmp_path: Path) -> None:
    settings = TrainSettings(steps=1, batch_size=2, shared=1)
    from tests.train.tiny import ByHeart

    with pytest.raises(PlanError, match="'fastv' has nothing to train") as caught:
        train(tiny(), "fastv", plan("vistog"), tmp_path, ByHeart(), settings)
    assert "vistog" in caught.value.remedy
    with pytest.raises(PlanError, match="0 stages of the plan are 'quecc'"):
        train(tiny(), "quecc", plan("vistog"), tmp_path, ByHeart(), settings)


def test_a_stage_behind_a_pruner_is_trained_on_what_it_leaves(tmp_path: Path) -> None:
    from tests.train.tiny import ByHeart

    both = load_plan(
        {
            "stages": [
                {"at": "pre_llm", "strategy": "random", "keep": 18},
                {"at": "decoder", "strategy": "covipal_style", "keep": 6},
            ]
        }
    )
    settings = TrainSettings(steps=4, batch_size=4, shared=2)
    done = train(tiny(), "covipal_style", both, tmp_path, ByHeart(), settings)
    assert [stage.strategy for stage in load_plan(done.plan).stages] == ["random", "covipal_style"]
