"""A whole training run: from a plan to a checkpoint, a plan that uses it, and a record."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from tokenprune.engine.adapters import choose_adapter
from tokenprune.engine.attach import attach
from tokenprune.engine.stages import built
from tokenprune.errors import BudgetError, DataError, UnsupportedModelError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.loading import LoadedMllm, LoadedModel
from tokenprune.interface.trainable import ModelShape, TrainableStrategy
from tokenprune.lab.data.question import Question
from tokenprune.lab.measure.files import write_text, writing_failed
from tokenprune.lab.measure.locks import locked
from tokenprune.lab.measure.telling import Tell
from tokenprune.lab.train.auxiliary import Auxiliary
from tokenprune.lab.train.data import Stream
from tokenprune.lab.train.heldout import accuracy
from tokenprune.lab.train.loop import Loop, TrainingRun
from tokenprune.lab.train.record import Job, facts
from tokenprune.lab.train.session import PlanSession, frozen, model_shape
from tokenprune.lab.train.settings import TrainSettings
from tokenprune.lab.train.stage import (
    finished,
    initial,
    trainable,
    trained_stage,
    with_absolute_files,
)
from tokenprune.lab.train.state import StateFolder
from tokenprune.lab.trained import check_trained_for
from tokenprune.plan import Plan, dump_plan, load_plan

RECORD = "training.json"
PLAN = "plan.yaml"
LOCK = ".train.lock"


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
    heldout: Sequence[Question] = (),
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
        UnsupportedModelError: it is no multimodal LLM.
        PlanError: the plan doesn't have exactly one stage of the strategy, or doesn't fit.
        DataError: the folder holds a run with other settings, can't be written, or is another
            run's at this moment; there is no place of that name for an auxiliary loss.
        BackendUnavailableError: accelerate isn't installed.
    """
    if not isinstance(loaded, LoadedMllm):
        raise _no_mllm(loaded)
    trainable(strategy)
    adapter = _adapter(loaded)
    number, shape = trained_stage(plan, strategy), _shape(adapter, loaded, stream)
    check_trained_for(loaded, plan, but=number)
    job = Job(loaded, strategy, plan, number, stream, settings, adapter, shape)
    start = _start(job)
    with _claimed(out):
        states = _states(out, job, start)
        auxiliary = Auxiliary(loaded.model, shape, settings) if settings.aux_weight else None
        if restart:
            states.clear()
        learner, run = _learn(job, start, states, auxiliary, tell)
        return _left(job, out, learner, run, heldout, tell)


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """The folder of a run, for this run alone from its first state to its record.

    Raises:
        DataError: it can't be made, or another run is training into it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the folder can't be made ({error}).", where=str(out)) from error
    with locked(out / LOCK) as mine:
        if not mine:
            raise DataError(
                "another run is training into this folder.",
                where=str(out),
                remedy="Wait until that run has ended, or use another --out.",
            )
        yield


def _left(
    job: Job,
    out: Path,
    learner: TrainableStrategy[Any],
    run: TrainingRun,
    heldout: Sequence[Question],
    tell: Tell | None,
) -> Trained:
    """Write weights, plan and record of a run that has come to its end.

    Args:
        job: what was trained, on which model, from what.
        out: the run's folder.
        learner: the strategy as it was trained.
        run: its course.
        heldout: questions for the final accuracy.
        tell: told (done, in all, what runs).
    """
    plan, number, shape = job.plan, job.number, job.shape
    file = out / f"{job.strategy}.safetensors"
    about = facts(job.loaded, job.adapter.spec().core, plan, number, job.settings.steps)
    _write(learner, file, about, job.settings.precision)
    done = load_plan(finished(plan, number, shape, file))
    found = accuracy(job.loaded, done, heldout, tell) if heldout else None
    named = finished(with_absolute_files(plan), number, shape, Path(file.name))
    write_text(out / PLAN, dump_plan(named))
    record = job.record(learner, file, run, found)
    write_text(out / RECORD, json.dumps(record, indent=1, allow_nan=False) + "\n")
    return Trained(file, out / PLAN, out / RECORD, record)


def _start(job: Job) -> Plan:
    """The plan with the weights that the run starts from.

    Raises:
        SignalError: the strategy can't run on the model at any budget, which is said before that
            the plan's budget doesn't fit.
        BudgetError: the plan's budget doesn't fit.
    """
    plan, number, shape, seed = job.plan, job.number, job.shape, job.settings.seed
    try:
        return load_plan(initial(plan, number, shape, seed))
    except BudgetError as error:
        if error.nearest is not None:
            stage = plan.stages[number].model_copy(update={"keep": int(error.nearest)})
            stages = (*plan.stages[:number], stage, *plan.stages[number + 1 :])
            near = plan.model_copy(update={"stages": stages})
            attach(job.loaded.model, load_plan(initial(near, number, shape, seed))).detach()
        raise


def _learn(
    job: Job, start: Plan, states: StateFolder, auxiliary: Auxiliary | None, tell: Tell | None
) -> tuple[TrainableStrategy[Any], TrainingRun]:
    """Train to the last step; the strategy comes back in eval mode.

    Args:
        job: what is trained, on which model, from what.
        start: the plan with the weights that the run starts from.
        states: where the run is saved, and goes on from.
        auxiliary: a loss beside the strategy's own.
        tell: told (done, in all, what runs).
    """
    model, stages = job.loaded.model, built(start)
    learner = stages[job.number].strategy
    assert isinstance(learner, TrainableStrategy)
    watch = None if auxiliary is None else auxiliary.watch
    session = PlanSession(model, job.adapter, start, stages, job.number, job.shape, watch)
    learner.modules().to(device=next(model.parameters()).device)
    with frozen(model), torch.random.fork_rng():
        loop = Loop(job.loaded, learner, session, job.stream, job.settings, states, tell, auxiliary)
        run = loop.run()
    learner.train(False)
    return learner, run


def _shape(adapter: MllmAdapter, loaded: LoadedMllm, stream: Stream) -> ModelShape:
    """The model's shape, and the grid of the stream's first picture where it has no own."""
    (first,) = stream.draw(0, 1, 1)
    pictured = bool(adapter.spec().modalities)
    return model_shape(adapter, loaded.prepare([first.image], [first.text]) if pictured else None)


def _adapter(loaded: LoadedMllm) -> MllmAdapter:
    adapter = choose_adapter(loaded.model)
    if not isinstance(adapter, MllmAdapter):
        raise _no_mllm(loaded)
    return adapter


def _no_mllm(loaded: LoadedModel) -> UnsupportedModelError:
    return UnsupportedModelError("training needs a multimodal LLM.", where=loaded.name)


def _states(out: Path, job: Job, plan: Plan) -> StateFolder:
    """The folder of a run's states, for a run of just these settings, data, plan and model."""
    told = {key: value for key, value in job.settings.data().items() if key != "save_every"}
    identity = {
        **told,
        "data": job.stream.name,
        "plan": dump_plan(plan),
        "model": job.loaded.fingerprint(),
    }
    if job.stream.digest:
        identity["data_sha256"] = job.stream.digest
    return StateFolder(out, identity)


def _write(
    learner: TrainableStrategy[Any], file: Path, about: dict[str, str], precision: str
) -> None:
    """Write the weights beside their place and move them into it."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        learner.save_checkpoint(partial, about, half=precision == "float16")
        os.replace(partial, file)
    except (OSError, SafetensorError) as error:
        raise writing_failed(file, error) from error
