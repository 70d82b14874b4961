"""The comparisons: a multimodal LLM on questions, an encoder on labelled pictures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokenprune.interface.loading import LoadedModel, LoadOptions
from tokenprune.lab.compare.build import Source, build_entries
from tokenprune.lab.compare.defaults import BASELINE, grouped, random_beside
from tokenprune.lab.compare.jobs import measure_in
from tokenprune.lab.compare.record import Comparison
from tokenprune.lab.compare.retention import Retention
from tokenprune.lab.compare.settings import QUESTIONS, Settings
from tokenprune.lab.compare.summary import Summary
from tokenprune.lab.data.candidates import PROMPTS
from tokenprune.lab.measure.checks import failed_checks
from tokenprune.lab.measure.entries import Entry
from tokenprune.lab.measure.environment import describe_environment
from tokenprune.lab.measure.run import Measurement, Progress, joined
from tokenprune.lab.measure.statistics import LEVEL, RESAMPLES
from tokenprune.lab.measure.task import Task
from tokenprune.lab.models import shown_name
from tokenprune.plugins.host import host

__all__ = ["QUESTIONS", "Settings", "compare"]


def compare(
    loaded: LoadedModel,
    settings: Settings,
    options: LoadOptions,
    *,
    images: Path | None = None,
    labels: Path | None = None,
    classes: Path | None = None,
    prompts: Sequence[str] = PROMPTS,
    progress: Progress | None = None,
) -> Comparison:
    """Compare plans with each other and with dense on one model.

    Args:
        loaded: the model. With several jobs, every process loads it again by its name.
        settings: what to compare.
        options: how the model was loaded, for the record and for further processes.
        images: folder of pictures, for encoders.
        labels: CSV with their classes.
        classes: file with the names of the classes, for dual encoders.
        prompts: templates for the names, with `{}`.
        progress: told (runs done, runs in all, what runs).

    Raises:
        TokenpruneError: bad input of any kind, or a plan that doesn't fit the model.
    """
    start = time.perf_counter()
    source = Source(loaded.name, options, settings, images, labels, classes, tuple(prompts))
    task = source.task(loaded)
    entries, left_out = build_entries(loaded, settings)
    told = _Passes(progress)
    retention = Retention.of(task, settings)
    measured = _measure(source, task, entries, told)
    summary = Summary(task, measured, settings.seed)
    results = summary.plans()
    if retention is not None:
        told.next()
        rows = [row.entry.plan for row in measured.plans if row.entry is not None]
        read = retention.measure(rows, told)
        results = [replace(one, probe=places) for one, places in zip(results, read, strict=True)]
    return Comparison(
        kind=task.kind,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        elapsed=round(time.perf_counter() - start, 1),
        model=_model(loaded, options),
        task=source.about(loaded) | {"samples": len(task.questions), "images": _images(task)},
        settings=_settings(settings),
        environment=describe_environment(),
        dense=summary.dense(),
        results=results,
        failures=failed_checks(measured, host().strategies),
        left_out=left_out,
        probe={} if retention is None else retention.ends,
    )


def _measure(source: Source, task: Task, entries: Sequence[Entry], told: _Passes) -> Measurement:
    """All rows, and in a second pass a baseline for those that have none at their budget."""
    jobs = source.settings.jobs
    first = measure_in(jobs, source, task, entries, told)
    extra = [] if source.settings.plans or task.kind != "mllm" else _baselines(first)
    if not extra:
        return first
    told.next()
    second = measure_in(jobs, source, task, extra, told)
    order = grouped([*entries, *extra])
    places = {id(entry): place for place, entry in enumerate(order)}
    return joined(
        [first, second], [[places[id(e)] for e in entries], [places[id(e)] for e in extra]]
    )


def _baselines(measured: Measurement) -> list[Entry]:
    """`random` at the measured tokens of every row that has no `random` at its budget."""
    rows = [(row, row.entry) for row in measured.plans if row.entry is not None]
    served = {entry.peers for _, entry in rows if entry.strategy == BASELINE}
    found: dict[str, Entry] = {}
    for row, entry in rows:
        if entry.peers not in served and "llm_average" in row.tokens:
            most = round(row.tokens["patches"])
            beside = random_beside(host().strategies, entry, row.tokens["llm_average"], most)
            found.setdefault(entry.peers, beside)
    return [*found.values()]


class _Passes:
    """Progress over several passes: a later one goes on where the one before ended."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._before, self._total = progress, 0, 0

    def next(self) -> None:
        """Another pass begins."""
        self._before += self._total

    def __call__(self, done: int, total: int, label: str) -> None:
        self._total = total
        if self._progress is not None:
            self._progress(self._before + done, self._before + total, label)


def _model(loaded: LoadedModel, options: LoadOptions) -> dict[str, Any]:
    return {
        "name": shown_name(loaded.name),
        "weights": loaded.weights,
        "sha256": loaded.fingerprint(),
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "device": str(options.device),
        "dtype": str(options.dtype).removeprefix("torch."),
    }


def _images(task: Task) -> int:
    return len({question.image_id for question in task.questions})


def _settings(settings: Settings) -> dict[str, Any]:
    return {
        "task": settings.task,
        "jobs": settings.jobs,
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "new_tokens": settings.new_tokens,
        "resamples": RESAMPLES,
        "level": LEVEL,
        "resampled": "images, with all their samples",
    }
