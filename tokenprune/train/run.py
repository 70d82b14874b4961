"""A whole training run: from a plan to a checkpoint, a plan that uses it, and a record."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from tokenprune.adapter import MllmAdapter
from tokenprune.engine.choosing import choose_adapter, choose_encoder
from tokenprune.engine.stages import ResolvedStage
from tokenprune.environment import describe_environment
from tokenprune.errors import DataError, UnsupportedModelError
from tokenprune.loading import LoadedMllm, LoadedModel
from tokenprune.plan import Plan, dump_plan, load_plan
from tokenprune.reference import reference_model_path, video_model_path
from tokenprune.registry import build_strategy
from tokenprune.strategy import ModelShape
from tokenprune.train.auxiliary import Auxiliary
from tokenprune.train.data import Example, Stream
from tokenprune.train.heldout import accuracy
from tokenprune.train.loop import Loop, Run, Tell
from tokenprune.train.session import PlanSession, frozen, model_shape
from tokenprune.train.settings import TrainSettings
from tokenprune.train.stage import finished, initial, trainable, trained_stage
from tokenprune.train.state import States
from tokenprune.trainable import TrainableStrategy

SCHEMA_VERSION = 1
RECORD = "training.json"
PLAN = "plan.yaml"


@dataclass(frozen=True)
class Trained:
    """What a run left in its folder.

    Attributes:
        checkpoint: the weights, for the parameter `checkpoint`.
        plan: a plan that uses them.
        record: course, settings and accuracy.
        data: what the record says.
    """

    checkpoint: Path
    plan: Path
    record: Path
    data: dict[str, Any]


def train(
    loaded: LoadedModel,
    strategy: str,
    plan: Plan,
    out: Path,
    stream: Stream,
    settings: TrainSettings,
    *,
    heldout: Sequence[Example] = (),
    restart: bool = False,
    tell: Tell | None = None,
) -> Trained:
    """Train the one stage of a plan that a learned strategy has; the model stays as it is.

    A run that was stopped in any way goes on from its newest state in `out`.

    Args:
        loaded: a multimodal LLM.
        strategy: what is trained.
        plan: the plan; its other stages are in force throughout.
        out: folder for everything that is left.
        stream: the questions.
        settings: of the run.
        heldout: questions for the final accuracy.
        restart: forget a run that is in the folder.
        tell: told (done, in all, what runs).

    Raises:
        PlanError: the plan doesn't have exactly one stage of the strategy, or doesn't fit.
        DataError: the folder holds a run with other settings, or can't be written; there is no
            place of that name for an auxiliary loss.
        BackendUnavailableError: accelerate isn't installed.
    """
    if not isinstance(loaded, LoadedMllm):
        raise UnsupportedModelError("training needs a multimodal LLM.", where=loaded.name)
    trainable(strategy)
    adapter = choose_adapter(loaded.model, None)
    if not isinstance(adapter, MllmAdapter):
        raise UnsupportedModelError("training needs a multimodal LLM.", where=loaded.name)
    number, shape = trained_stage(plan, strategy), _shape(adapter)
    start = load_plan(initial(plan, number, shape, settings.seed))
    stages = [
        ResolvedStage(at, stage, build_strategy(stage)) for at, stage in enumerate(start.stages)
    ]
    learner = stages[number].strategy
    assert isinstance(learner, TrainableStrategy)
    states = _states(out, loaded, start, stream, settings)
    auxiliary = Auxiliary(loaded.model, shape, settings) if settings.aux_weight else None
    if restart:
        states.clear()
    watch = None if auxiliary is None else auxiliary.watch
    session = PlanSession(loaded.model, adapter, start, stages, number, shape, watch)
    _place(loaded, learner)
    with frozen(loaded.model), torch.random.fork_rng():
        run = Loop(loaded, learner, session, stream, settings, states, tell, auxiliary).run()
    learner.train(False)
    file = out / f"{strategy}.safetensors"
    done = finished(plan, number, shape, file)
    told = facts(loaded, plan, number, settings.steps)
    _write(learner, file, told, half=settings.precision == "float16")
    found = accuracy(loaded, load_plan(done), heldout, tell) if heldout else None
    _write_text(out / PLAN, dump_plan(done))
    record = _record(loaded, strategy, plan, learner, file, stream, settings, run, found)
    _write_text(out / RECORD, json.dumps(record, indent=1, allow_nan=False) + "\n")
    return Trained(file, out / PLAN, out / RECORD, record)


def _shape(adapter: MllmAdapter) -> ModelShape:
    tower = choose_encoder(adapter.spec().tower).spec()
    return model_shape(adapter, tower.width, tower.grid)


def _states(
    out: Path, loaded: LoadedMllm, plan: Plan, stream: Stream, settings: TrainSettings
) -> States:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the folder can't be made ({error}).", where=str(out)) from error
    told = {key: value for key, value in settings.data().items() if key != "save_every"}
    identity = {
        **told,
        "data": stream.name,
        "plan": dump_plan(plan),
        "model": loaded.fingerprint(),
    }
    return States(out, identity)


def _place(loaded: LoadedMllm, learner: TrainableStrategy[Any]) -> None:
    learner.modules().to(device=next(loaded.model.parameters()).device)


def facts(loaded: LoadedMllm, plan: Plan, number: int, steps: int) -> dict[str, str]:
    """What a checkpoint says of itself: model, budget and steps."""
    bundled = {reference_model_path(): "reference", video_model_path(): "video"}
    keep = plan.stages[number].keep
    return {
        "model": bundled.get(Path(loaded.name), Path(loaded.name).name),
        "model_sha256": loaded.fingerprint(),
        "keep": str(keep) if isinstance(keep, int) else "",
        "steps": str(steps),
    }


def _write(
    learner: TrainableStrategy[Any], file: Path, told: dict[str, str], *, half: bool
) -> None:
    """Write the weights beside their place and move them into it."""
    partial = file.with_name(f".{file.name}.partial")
    learner.save_checkpoint(partial, told, half=half)
    os.replace(partial, file)


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _record(
    loaded: LoadedMllm,
    strategy: str,
    plan: Plan,
    learner: TrainableStrategy[Any],
    file: Path,
    stream: Stream,
    settings: TrainSettings,
    run: Run,
    heldout: dict[str, Any] | None,
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "strategy": strategy,
        "plan": dump_plan(plan),
        "model": {
            "name": Path(loaded.name).name,
            "weights": loaded.weights,
            "sha256": loaded.fingerprint(),
        },
        "data": stream.name,
        "settings": settings.data(),
        "phases": {phase.name: phase.share for phase in learner.phases},
        "seconds": round(run.seconds, 1),
        "starts": run.starts,
        "curve": run.curve.points,
        "heldout": heldout,
        "checkpoint": {
            "file": file.name,
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "parameters": sum(p.numel() for p in learner.modules().parameters()),
        },
        "environment": describe_environment(),
    }
