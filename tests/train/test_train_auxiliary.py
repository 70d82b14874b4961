"""The auxiliary loss: what it reads, whom its gradients reach, and what it leaves alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.models import llava_clip
from tests.train.test_train_losses import batch
from tests.train.test_train_run import Stopped, same, stop_at, traces, weights
from tests.train.tiny import picture as noise
from tests.train.tiny import plan, prepare, run, tiny
from tokenprune.cli import app
from tokenprune.engine.adapters import choose_adapter
from tokenprune.engine.stages import ResolvedStage, build_strategy
from tokenprune.errors import DataError, PlanError
from tokenprune.interface.loading import LoadedMllm
from tokenprune.interface.trainable import Batch, StepLoss, TrainableStrategy
from tokenprune.lab.probe.distill import info_nce
from tokenprune.lab.train import TrainSettings
from tokenprune.lab.train.auxiliary import Auxiliary
from tokenprune.lab.train.session import PlanSession, frozen, model_shape
from tokenprune.lab.train.stage import initial
from tokenprune.lab.train.state import StateFolder

WEIGHT = 0.5


def watched(
    loaded: LoadedMllm, strategy: str, place: str
) -> tuple[PlanSession, Auxiliary, TrainableStrategy[Any]]:
    adapter: Any = choose_adapter(loaded.model)
    shape = model_shape(adapter)
    start = initial(plan(strategy), 0, shape, 0)
    learner: Any = build_strategy(start.stages[0])
    settings = TrainSettings(aux_weight=WEIGHT, aux_place=place)
    auxiliary = Auxiliary(loaded.model, shape, settings)
    stages = [ResolvedStage(0, start.stages[0], learner)]
    made = PlanSession(loaded.model, adapter, start, stages, 0, shape, auxiliary.watch)
    return made, auxiliary, learner.train()


def alone(session: PlanSession, auxiliary: Auxiliary, given: Batch) -> Tensor:
    """The auxiliary loss without a strategy's own."""
    session.pruned(given)
    return auxiliary.added(StepLoss(torch.zeros(())), given).loss


def gradients(learner: TrainableStrategy[Any]) -> dict[str, Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in learner.modules().named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("place", ["projector", "llm:1"])
@pytest.mark.parametrize("strategy", ["vistog", "quecc"])
def test_gradients_reach_what_makes_the_tokens_and_what_reads_them(
    strategy: str, place: str
) -> None:
    loaded = tiny()
    session, auxiliary, learner = watched(loaded, strategy, place)
    with frozen(loaded.model):
        alone(session, auxiliary, batch(loaded)).backward()
    reached = gradients(learner)
    assert sum(float(value.abs().sum()) for value in reached.values()) > 0
    assert {name for name, value in reached.items() if value.any()} >= {
        name for name in reached if name.endswith("weight") and reached[name].dim() == 2
    }
    assert all(parameter.grad is not None for parameter in auxiliary.module.parameters())
    assert all(parameter.grad is None for parameter in loaded.model.parameters())


@pytest.mark.parametrize("place", ["projector", "llm:1"])
def test_shared_pictures_count_as_one_for_every_question(place: str) -> None:
    loaded = tiny()
    session, auxiliary, learner = watched(loaded, "quecc", place)
    given = batch(loaded)
    pixels = given.inputs["pixel_values"].repeat_interleave(given.shared, dim=0)
    repeated = Batch({**given.inputs, "pixel_values": pixels}, given.labels)
    found = {}
    for name, each in (("shared", given), ("repeated", repeated)):
        learner.modules().zero_grad()
        loss = alone(session, auxiliary, each)
        loss.backward()
        found[name] = (loss.detach(), gradients(learner))
    torch.testing.assert_close(found["shared"][0], found["repeated"][0])
    torch.testing.assert_close(found["shared"][1], found["repeated"][1], atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("place", ["projector", "llm:1"])
def test_a_step_that_stops_in_front_of_the_place_has_none(place: str) -> None:
    loaded = tiny()
    session, auxiliary, _ = watched(loaded, "quecc", place)
    given, own = batch(loaded), StepLoss(torch.ones(()))
    session.encode(given)
    assert auxiliary.added(own, given) is own
    with pytest.raises(PlanError, match="never runs the pruned model"):
        auxiliary.added(own, given)


def test_samples_are_told_from_those_of_other_pictures_only() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randn(6, 5, generator=generator)
    target = torch.randn(3, 5, generator=generator)
    total = 0.0
    for i in range(6):
        similar = [
            float(predicted[i] @ target[j] / predicted[i].norm() / target[j].norm())
            for j in range(3)
        ]
        shares = [math.exp(4.0 * value) for value in similar]
        total -= math.log(shares[i // 2] / sum(shares))
    assert float(info_nce(predicted, target, 4.0)) == pytest.approx(total / 6, rel=1e-5)


@pytest.mark.parametrize("strategy", ["vistog", "quecc"])
def test_it_falls_on_a_batch_learned_by_heart_and_the_model_stays(
    strategy: str, tmp_path: Path
) -> None:
    model = llava_clip()
    model(**prepare([noise(0)], ["what is it"]))  # the library marks its modules on first use
    before = {name: value.clone() for name, value in model.state_dict().items()}
    marks = traces(model)
    done = run(strategy, tmp_path, loaded=tiny(model), steps=48, fresh=False, aux_weight=WEIGHT)
    course = [point["aux"] for point in done.data["curve"] if "aux" in point]
    assert all(later <= before for before, later in zip(course, course[2:], strict=False))
    assert course[-1] < 0.9 * course[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert traces(model) == marks
    told = done.data["settings"]
    assert (told["aux_weight"], told["aux_place"]) == (WEIGHT, "projector")


def test_the_checkpoint_holds_the_strategy_only(tmp_path: Path) -> None:
    run("quecc", tmp_path / "off", steps=4)
    run("quecc", tmp_path / "on", steps=4, aux_weight=WEIGHT)
    assert weights(tmp_path / "on").keys() == weights(tmp_path / "off").keys()
    assert not same(tmp_path / "on", tmp_path / "off")


@pytest.mark.parametrize("strategy", ["vistog", "quecc"])
def test_a_stopped_run_ends_like_one_that_was_not(strategy: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    straight = run(strategy, whole, aux_weight=WEIGHT, aux_place="llm:1")
    for step in (3, 5):
        with pytest.raises(Stopped):
            run(strategy, parts, tell=stop_at(step), aux_weight=WEIGHT, aux_place="llm:1")
    resumed = run(strategy, parts, aux_weight=WEIGHT, aux_place="llm:1")
    assert same(whole, parts)
    assert resumed.data["curve"] == straight.data["curve"]
    first, second = (load_file(reader(folder)) for folder in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)
    fresh = watched(tiny(), strategy, "llm:1")[1].module.state_dict()
    assert first.keys() == fresh.keys()
    assert not any(torch.equal(first[name], fresh[name]) for name in ("tau", "resampler.latents"))


def reader(folder: Path) -> Path:
    state = StateFolder(folder, {}).complete()[0]
    assert state is not None
    return state / "model_1.safetensors"


def test_without_it_states_are_what_they_were(tmp_path: Path) -> None:
    done = run("vistog", tmp_path, steps=2)
    state = StateFolder(tmp_path, {}).complete()[0]
    assert state is not None
    identity = json.loads((state / "progress.json").read_text())["identity"]
    assert not any("aux" in name for name in (*identity, *done.data["settings"]))
    assert not reader(tmp_path).exists()
    assert not any("aux" in point for point in done.data["curve"])


def test_a_folder_of_a_run_with_another_weight_is_refused(tmp_path: Path) -> None:
    run("vistog", tmp_path / "off", steps=2)
    with pytest.raises(DataError, match=r"other settings: aux_weight was unset and is 0\.5; aux"):
        run("vistog", tmp_path / "off", steps=2, aux_weight=WEIGHT)
    run("vistog", tmp_path / "on", steps=2, aux_weight=WEIGHT)
    with pytest.raises(DataError, match=r"aux_weight was 0\.5 and is unset; aux_place was p"):
        run("vistog", tmp_path / "on", steps=2)


@pytest.mark.parametrize("strategy", ["covipal_style", "dyvte"])
def test_hard_choices_are_refused(strategy: str, tmp_path: Path) -> None:
    model = llava_clip()
    model(**prepare([noise(0)], ["what is it"]))
    marks = traces(model)
    with pytest.raises(PlanError, match="never runs the pruned model"):
        run(strategy, tmp_path, loaded=tiny(model), aux_weight=WEIGHT)
    assert traces(model) == marks
    assert not (tmp_path / "state").exists()


def test_a_place_in_front_of_the_strategy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no gradient .* 'encoder'") as caught:
        run("vistog", tmp_path, aux_weight=WEIGHT, aux_place="encoder")
    assert caught.value.where == "--aux-place"


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("projecter", "there is no place 'projecter'"),
        ("llm:4", "there is no place 'llm:4'"),
        ("all", "reads at one place"),
    ],
)
def test_a_wrong_place_is_named_and_a_run_is_kept(place: str, said: str, tmp_path: Path) -> None:
    run("vistog", tmp_path, steps=2)
    with pytest.raises(DataError, match=said) as caught:
        run("vistog", tmp_path, steps=2, aux_weight=WEIGHT, aux_place=place, restart=True)
    assert caught.value.where == "--aux-place"
    assert StateFolder(tmp_path, {}).complete() != []


@pytest.mark.parametrize("weight", [-0.5, math.nan, math.inf])
def test_a_wrong_weight_is_named(weight: float) -> None:
    with pytest.raises(DataError, match="no weight of a loss"):
        TrainSettings(aux_weight=weight)


def test_the_command_takes_weight_and_place(tmp_path: Path) -> None:
    wanted = tmp_path / "plan.yaml"
    wanted.write_text("stages: [{at: pre_llm, strategy: vistog, keep: 4}]")
    out = tmp_path / "out"
    args = ["train", "vistog", "--plan", wanted, "--out", out, "--steps", 1, "--batch-size", 4]
    args += ["--per-picture", 2, "--limit", 0, "--aux-weight", 0.25, "--aux-place", "llm:0"]
    with pytest.raises(SystemExit) as left:
        app([str(arg) for arg in args])
    assert not left.value.code
    data = json.loads((out / "training.json").read_text())
    assert (data["settings"]["aux_weight"], data["settings"]["aux_place"]) == (0.25, "llm:0")
    assert data["curve"][0]["aux"] > 0
