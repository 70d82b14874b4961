"""The probe as a metric of a comparison: what every plan leaves readable, by place."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tokenprune.engine.adapters import choose_adapter
from tokenprune.errors import DataError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.loading import LoadedMllm, LoadedModel
from tokenprune.lab.compare.settings import Settings
from tokenprune.lab.data.pictures import probe_questions
from tokenprune.lab.data.question import Question
from tokenprune.lab.measure.statistics import Bootstrap, Interval
from tokenprune.lab.measure.task import Task
from tokenprune.lab.measure.telling import Tell
from tokenprune.lab.probe import Probe, States, fit_probe
from tokenprune.lab.probe.capture import Reader
from tokenprune.lab.probe.fit import EPOCHS
from tokenprune.lab.probe.places import parse_places
from tokenprune.plan import Plan

#: Pictures that the probe is fitted on and scored on (ours): enough to rank plans in minutes.
#: Clips count by their frames.
FIT, SCORED = 256, 96


@dataclass(frozen=True)
class Ends:
    """One place: the probe, and both ends of its scale.

    Attributes:
        probe: fitted on unpruned tokens, then frozen.
        full: score of every sample with unpruned tokens, `[n]`.
        null: score with tokens that all hold the mean state, `[n]`.
    """

    probe: Probe
    full: Tensor
    null: Tensor

    def retention(self, score: Tensor, samples: Bootstrap) -> Interval:
        """(score - null) / (full - null) over samples `[n]`, with a paired interval."""
        left, whole = score - self.null, self.full - self.null
        return samples.ratio(np.asarray(left.tolist()), np.asarray(whole.tolist()))


class Retention:
    """How much of the encoder's own features can be read from the tokens of a plan.

    Retention at a place is (c_P - c_null) / (c_full - c_null), with c the cosine similarity of a
    frozen resampler's prediction with the encoder's last block but one: 1 for unpruned tokens, 0
    for tokens that hold only their number and places. Our adaptation of VisPer-LM's probes.

    Args:
        task: whose questions are read; the first ones, as many as `SCORED` pictures.
        places: see `parse_places`.
        kind: built-in task: `image`, `detail`, or `video`, whose questions have several frames.
        videos: whether the model gets clips as videos, and not as several pictures.
        seed: of the probe and the resampling.
        fit: pictures to fit on.
        scored: pictures to score on.
    """

    def __init__(
        self,
        task: Task,
        places: Sequence[str],
        *,
        kind: str = "image",
        videos: bool = False,
        seed: int = 0,
        fit: int = FIT,
        scored: int = SCORED,
    ) -> None:
        frames = len(task.questions[0].image) if kind == "video" else 1
        together = 1 if videos else frames
        self._task, self._places, self._seed = task, tuple(places), seed
        self._reader = Reader(task.model, places, together)
        self._questions = task.questions[: max(1, scored // frames)]
        self._fit = probe_questions(kind, max(2, fit // frames))
        self._samples = Bootstrap([question.image_id for question in self._questions], seed)
        self._known: dict[str, Ends] = {}
        self._target: Tensor | None = None

    @classmethod
    def of(cls, task: Task, settings: Settings, loaded: LoadedModel) -> Retention | None:
        """The metric that the settings ask for, if they do.

        Raises:
            DataError: an unknown place, or a model that is no multimodal LLM.
        """
        if not settings.probe:
            return None
        adapter = choose_adapter(task.model)
        if not isinstance(adapter, MllmAdapter):
            raise DataError(
                "the probe reads what reaches an LLM, and this model has none.",
                where="--probe",
                remedy="Pass a multimodal LLM, or leave --probe away.",
            )
        places = parse_places(settings.probe, len(adapter.spec().layers))
        videos = isinstance(loaded, LoadedMllm) and loaded.videos
        return cls(task, places, kind=settings.task, videos=videos, seed=settings.seed)

    @property
    def ends(self) -> dict[str, dict[str, float]]:
        """By place, the mean scores that count as 1 and as 0."""
        return {
            place: {"full": float(known.full.mean()), "null": float(known.null.mean())}
            for place, known in self._known.items()
        }

    def estimate(self, plans: int) -> float:
        """Seconds that `measure` will about take, from one batch that is read, fitted and scored.

        Args:
            plans: how many there are to measure.
        """
        questions = self._fit[: self._task.batch_size]
        inputs = next(self._inputs(questions))
        self._reader.dense(inputs)  # what comes at the first call comes once
        start = time.perf_counter()
        states, target = self._reader.dense(inputs)
        read = time.perf_counter() - start
        fit = score = 0.0
        for place in self._places:
            start = time.perf_counter()
            probe = fit_probe(
                states[place], target, self._reader.grid, shown=self._reader.shown, epochs=1
            )
            fitted = time.perf_counter()
            probe.score(states[place], target)
            fit, score = fit + fitted - start, score + time.perf_counter() - fitted
        fitting, scored = len(self._fit), len(self._questions)
        batch = read * (fitting + scored * (1 + plans)) + score * scored * (2 + plans)
        return (batch + fit * EPOCHS * fitting) / len(questions)

    def measure(
        self, plans: Sequence[Plan], progress: Tell | None = None
    ) -> list[dict[str, Interval]]:
        """Retention of every plan by place; the probes are fitted at the first call."""
        steps = len(self._places) + len(plans)
        if not self._known:
            self._prepare(progress, steps)
        found = []
        for number, plan in enumerate(plans):
            if progress is not None:
                progress(len(self._places) + number, steps, f"probe {plan.name or ''}")
            found.append(self._retained(plan))
        return found

    def _retained(self, plan: Plan) -> dict[str, Interval]:
        assert self._target is not None
        parts = [self._reader.read(plan, inputs) for inputs in self._inputs(self._questions)]
        found = {}
        for place, known in self._known.items():
            states = States.joined([part[place] for part in parts])
            score = known.probe.mean_score(states, self._target)
            found[place] = known.retention(score, self._samples)
        return found

    def _prepare(self, progress: Tell | None, steps: int) -> None:
        fitting, features = self._dense(self._fit)
        scored, self._target = self._dense(self._questions)
        for number, place in enumerate(self._places):
            if progress is not None:
                progress(number, steps, f"fit a probe at {place}")
            grid, shown = self._reader.grid, self._reader.shown
            probe = fit_probe(fitting[place], features, grid, shown=shown, seed=self._seed)
            full = probe.mean_score(scored[place], self._target)
            null = probe.null(scored[place], self._target)
            self._known[place] = Ends(probe, full, null)

    def _dense(self, questions: Sequence[Question]) -> tuple[dict[str, States], Tensor]:
        parts = [self._reader.dense(inputs) for inputs in self._inputs(questions)]
        states = {
            place: States.joined([part[place] for part, _ in parts]) for place in self._places
        }
        return states, torch.cat([target for _, target in parts])

    def _inputs(self, questions: Sequence[Question]) -> Iterator[dict[str, object]]:
        step = self._task.batch_size
        for at in range(0, len(questions), step):
            yield self._task.inputs(questions[at : at + step])
