"""The optimiser's steps, from the newest state on, each a function of its number alone."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from tokenprune.errors import (
    BackendUnavailableError,
    CheckpointError,
    DataError,
    NonFiniteError,
    UnsupportedCallError,
)
from tokenprune.errors.installing import pip_install
from tokenprune.errors.words import first_line
from tokenprune.interface.loading import LoadedMllm
from tokenprune.interface.trainable import (
    StepLoss,
    TrainableStrategy,
    TrainingStep,
)
from tokenprune.lab.measure.telling import Tell
from tokenprune.lab.train.auxiliary import Auxiliary
from tokenprune.lab.train.batches import make_batch
from tokenprune.lab.train.curve import Curve
from tokenprune.lab.train.data import Stream
from tokenprune.lab.train.session import PlanSession
from tokenprune.lab.train.settings import Span, TrainSettings, rate, spans
from tokenprune.lab.train.state import StateFolder, unreadable

_PRIME = 1_000_003


@dataclass
class TrainingRun:
    """A finished or interrupted run.

    Attributes:
        curve: its course.
        seconds: spent in steps, over all starts.
        starts: how often it was started.
    """

    curve: Curve
    seconds: float = 0.0
    starts: int = 1


class Loop:
    """One run.

    Nothing that a step draws depends on the steps before it, so a run that was taken up again
    goes through the same numbers as one that was never stopped.

    Args:
        loaded: the model, frozen.
        strategy: what learns.
        session: the model as the loss sees it.
        stream: the questions.
        settings: of the run.
        states: where it is kept.
        tell: told (steps done, steps in all, how it goes).
        auxiliary: a loss on top of the strategy's, if any.
    """

    def __init__(
        self,
        loaded: LoadedMllm,
        strategy: TrainableStrategy[Any],
        session: PlanSession,
        stream: Stream,
        settings: TrainSettings,
        states: StateFolder,
        tell: Tell | None = None,
        auxiliary: Auxiliary | None = None,
    ) -> None:
        self._loaded, self._strategy, self._session = loaded, strategy, session
        self._stream, self._settings, self._states = stream, settings, states
        self._tell, self._auxiliary = tell, auxiliary
        self._spans = spans(strategy.phases, settings.steps)
        groups: list[dict[str, Any]] = [{"params": list(strategy.trainable_parameters())}]
        modules = [strategy.modules()]
        if auxiliary is not None:
            groups.append(auxiliary.group)
            modules.append(auxiliary.module)
        self._clipped: list[list[nn.Parameter]] = [group["params"] for group in groups]
        optimiser = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay)
        schedule = LambdaLR(optimiser, lambda step: rate(step, self._spans, settings.warmup))
        self._accelerator = accelerator(next(loaded.model.parameters()).device)
        prepared = self._accelerator.prepare(*modules, optimiser, schedule)
        self._optimiser, self._schedule = prepared[-2:]

    def run(self) -> TrainingRun:
        """Train to the last step.

        Raises:
            NonFiniteError: the loss is NaN or infinite.
            DataError: the folder holds a run with other settings.
        """
        run, first = self._resumed()
        total = self._settings.steps
        for number in range(first, total):
            start = time.perf_counter()
            span = next(span for span in self._spans if number < span.end)
            lr = float(self._schedule.get_last_lr()[0])
            found = self._step(number, span)
            values = {"loss": float(found.loss.detach()), **found.metrics}
            run.curve.add(number, span.phase.name, lr, values, last=number + 1 == span.end)
            run.seconds += time.perf_counter() - start
            if self._tell is not None:
                self._tell(number + 1, total, _shown(span, run.curve.latest))
            if (number + 1) % self._settings.save_every == 0 or number + 1 == total:
                self._save(number + 1, run)
        return run

    def _step(self, number: int, span: Span) -> StepLoss:
        settings = self._settings
        questions = self._stream.draw(number, settings.pictures, settings.shared)
        shared = settings.shared if self._session.shares else 1
        batch = make_batch(self._loaded, questions, shared)
        seed = settings.seed * _PRIME + number
        torch.manual_seed(seed)
        self._strategy.reseed(seed)
        self._strategy.train()
        done = (number - span.start) / (span.end - span.start)
        generator = torch.Generator().manual_seed(seed)
        step = TrainingStep(number, span.phase.name, done, generator)
        found = self._strategy.loss(self._session, batch, step)
        if self._auxiliary is not None:
            found = self._auxiliary.added(found, batch)
        if not bool(torch.isfinite(found.loss.detach())):
            raise NonFiniteError(
                f"the loss of step {number} is {float(found.loss.detach())}.",
                where=f"train, phase '{span.phase.name}'",
                remedy="Use a lower --lr.",
            )
        self._optimiser.zero_grad()
        self._accelerator.backward(found.loss)
        for parameters in self._clipped:
            self._accelerator.clip_grad_norm_(parameters, settings.clip)
        self._optimiser.step()
        self._schedule.step()
        return found

    def _resumed(self) -> tuple[TrainingRun, int]:
        """The run as its newest state left it that can be read, and the step to go on with."""
        damaged: CheckpointError | None = None
        for state in self._states.complete():
            try:
                found = self._loaded_state(state)
            except CheckpointError as error:
                damaged = error
                continue
            if damaged is not None:
                warnings.warn(f"{damaged.message} The run goes on from {state}.", stacklevel=2)
            return found
        if damaged is not None:
            raise damaged
        return TrainingRun(Curve.of(self._settings.steps)), 0

    def _loaded_state(self, state: Path) -> tuple[TrainingRun, int]:
        data = self._states.read(state)
        try:
            run = TrainingRun(Curve(**data["curve"]), data["seconds"], data["starts"] + 1)
            step = int(data["step"])
            self._accelerator.load_state(str(state))
        except Exception as error:
            # weights, optimiser and generators are read by three libraries with errors of their own
            raise unreadable(state, f"{type(error).__name__}: {first_line(error)}") from error
        return run, step

    def _save(self, step: int, run: TrainingRun) -> None:
        data = {
            "step": step,
            "curve": vars(run.curve),
            "seconds": run.seconds,
            "starts": run.starts,
        }
        try:
            partial = self._states.begin(step)
            self._accelerator.save_state(str(partial))
            self._states.publish(partial, data)
        except (OSError, RuntimeError, SafetensorError) as error:
            # a full disk is a RuntimeError of torch's, and one of safetensors' own kind
            raise DataError(
                f"the state of step {step} can't be written ({str(error).splitlines()[0]}).",
                where=str(self._states.folder),
                remedy="Make room there and start again: the run goes on from the state before.",
            ) from error


def _shown(span: Span, values: dict[str, float]) -> str:
    parts = [f"{name} {values[name]:.3f}" for name in ("loss", "aux", "accuracy") if name in values]
    return " ".join((span.phase.name, *parts))


def accelerator(device: Any) -> Any:
    """An `accelerate.Accelerator` of one process on the model's device.

    Raises:
        BackendUnavailableError: accelerate isn't installed.
        UnsupportedCallError: the run was started in several processes.
    """
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise BackendUnavailableError(
            f"training needs accelerate, which can't be imported ({error}).",
            where="tokenprune train",
            remedy=f"Install it: {pip_install('train')}.",
        ) from error
    found = Accelerator(device_placement=False, cpu=device.type == "cpu", mixed_precision="no")
    if found.num_processes > 1:
        raise UnsupportedCallError(
            f"{found.num_processes} processes were started, and training runs in one.",
            where="accelerate launch",
            remedy="Start it with `tokenprune train` itself.",
        )
    return found
