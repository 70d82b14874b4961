"""The comparisons: a multimodal LLM on questions, an encoder on labelled pictures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokenprune.engine.attach import attach
from tokenprune.interface.loading import LoadedModel, LoadOptions
from tokenprune.lab.compare.defaults import grouped, random_beside
from tokenprune.lab.compare.entries import build_entries, compared_strategies
from tokenprune.lab.compare.jobs import measure_in
from tokenprune.lab.compare.kept import Kept
from tokenprune.lab.compare.matching import equal_cost
from tokenprune.lab.compare.record import Comparison
from tokenprune.lab.compare.retention import Retention
from tokenprune.lab.compare.settings import Settings
from tokenprune.lab.compare.source import Source
from tokenprune.lab.data.checking import check_samples
from tokenprune.lab.data.opening import revision
from tokenprune.lab.judge.judge import Judge, baselines
from tokenprune.lab.judge.measured import runs_of, samples_of
from tokenprune.lab.judge.result import BASELINE, PlanRun, Result
from tokenprune.lab.measure.checks import failed_checks, unpruned_tokens
from tokenprune.lab.measure.entries import Entry
from tokenprune.lab.measure.environment import describe_environment
from tokenprune.lab.measure.measurement import Measurement, joined
from tokenprune.lab.measure.statistics import LEVEL, RESAMPLES
from tokenprune.lab.measure.task import Task
from tokenprune.lab.measure.telling import Say, Tell, duration
from tokenprune.lab.models import load_model, shown_name
from tokenprune.plan import positions_of
from tokenprune.plugins.host import host


def compare(
    source: Source,
    loaded: LoadedModel | None = None,
    *,
    progress: Tell | None = None,
    say: Say | None = None,
    keep: Path | None = None,
) -> Comparison:
    """Compare plans with each other and with dense on one model.

    Args:
        source: model, samples and settings; with several jobs, every process builds the task from
            it again.
        loaded: the source's model, if it is loaded already.
        progress: told (runs done, runs in all, what runs).
        say: told in a sentence, before anything is measured, how long the probe will take, and
            that something was measured before.
        keep: folder in which batches are kept until `journal.forget` is given the comparison's
            `journals`: the same one, interrupted and started again, goes on behind the last one.

    Raises:
        TokenpruneError: bad input of any kind, or a plan of the user's that doesn't fit the model.
            Default plans that don't are left out, with the reason.
    """
    start = time.perf_counter()
    settings = source.settings
    loaded = load_model(source.model, source.options) if loaded is None else loaded
    task = source.task(loaded)
    check_samples(task.questions, settings.check)
    entries, left_out = _entries(loaded, settings, task)
    told = _Passes(progress)
    retention = Retention.of(task, settings, loaded)
    if retention is not None and say is not None:
        say(_probing(retention, len(entries)))
    kept = None if keep is None else _kept(keep, source, loaded, task, entries, say)
    whole = _measure(source, task, entries, told, kept)
    measured = whole.complete()
    dense, *results = Judge(
        samples_of(task, measured), runs_of(task, measured), settings.seed
    ).results()
    if retention is not None:
        results = _probed(results, retention, told)
    return Comparison(
        kind=task.kind,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        elapsed=round(time.perf_counter() - start, 1),
        model=_model(loaded, source.options, kept),
        task=source.about(loaded) | _counted(task, measured, kept),
        settings=_settings(source) | {"others": _others(loaded, settings)},
        environment=describe_environment(),
        dense=dense,
        results=results,
        failures=failed_checks(measured, host().strategies),
        left_out=[*dict.fromkeys([*left_out, *whole.left_out()])],
        probe={} if retention is None else retention.ends,
        resumed={"batches": whole.resumed, "of": whole.batches} if whole.resumed else {},
        journals=[] if kept is None else kept.paths,
    )


def _entries(loaded: LoadedModel, settings: Settings, task: Task) -> tuple[list[Entry], list[str]]:
    """What is compared, at equal costs where these are asked for, and what is left out and why."""
    entries, left_out = build_entries(loaded, settings, task.questions[0])
    if settings.match in ("flops", "time"):
        entries, unequal = equal_cost(task, entries, settings.match, host().strategies)
        left_out = [*left_out, *unequal]
    return entries, left_out


def _kept(
    folder: Path,
    source: Source,
    loaded: LoadedModel,
    task: Task,
    entries: Sequence[Entry],
    say: Say | None,
) -> Kept:
    for entry in entries:
        if not entry.optional:  # a plan that doesn't fit says so, before its files are read
            attach(loaded.model, entry.plan).detach()
    return Kept.of(folder, task, loaded, source, say)


def _probed(results: Sequence[Result], retention: Retention, told: _Passes) -> list[Result]:
    """The rows with what can still be read from the tokens that their plans leave."""
    told.next()
    read = retention.measure([row.run.plan for row in results], told)
    return [replace(one, probe=places) for one, places in zip(results, read, strict=True)]


def _probing(retention: Retention, plans: int) -> str:
    about = duration(retention.estimate(plans))
    return f"--probe will take about {about} more, once the plans are measured"


def _measure(
    source: Source, task: Task, entries: Sequence[Entry], told: _Passes, kept: Kept | None
) -> Measurement:
    """All rows, and in a second pass a baseline for those that have none among the first."""
    jobs = source.settings.jobs
    first = measure_in(jobs, source, task, entries, told, kept)
    ours = task.kind == "mllm" and not source.settings.plans and BASELINE in host().strategies
    extra = _baselines(runs_of(task, first.complete())) if ours else []
    if not extra:
        return first
    told.next()
    second = measure_in(jobs, source, task, extra, told, kept)
    order = grouped([*entries, *extra])
    places = {id(entry): place for place, entry in enumerate(order)}
    return joined(
        [first, second], [[places[id(e)] for e in entries], [places[id(e)] for e in extra]]
    )


def _baselines(runs: Sequence[PlanRun]) -> list[Entry]:
    """`random` at the measured tokens of every run that has no baseline among the runs.

    A run whose LLM sees all patches in all of its layers has none: random would drop nothing.
    """
    found: dict[tuple[str, str], Entry] = {}
    for run in runs:
        most = round(unpruned_tokens(run.tokens))
        if run.dense or run.baseline or round(run.mean_tokens) >= most or baselines(run, runs):
            continue
        beside = random_beside(host().strategies, run.entry, run.mean_tokens, most)
        found.setdefault((beside.keep, positions_of(beside.plan)), beside)
    return [*found.values()]


class _Passes:
    """Progress over several passes: a later one goes on where the one before ended."""

    def __init__(self, progress: Tell | None) -> None:
        self._progress, self._before, self._total = progress, 0, 0

    def next(self) -> None:
        """Another pass begins."""
        self._before += self._total

    def __call__(self, done: int, total: int, label: str) -> None:
        self._total = total
        if self._progress is not None:
            self._progress(self._before + done, self._before + total, label)


def _model(loaded: LoadedModel, options: LoadOptions, kept: Kept | None) -> dict[str, Any]:
    # large weights take a while to read, so once
    weights = loaded.fingerprint() if kept is None else kept.facts["weights"]
    return {
        "name": shown_name(loaded.name),
        "weights": loaded.weights,
        "sha256": weights,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "device": str(options.device),
        "dtype": str(options.dtype).removeprefix("torch."),
    }


def _counted(task: Task, measured: Measurement, kept: Kept | None) -> dict[str, Any]:
    """How many samples the numbers are over, and which were left out, with the reasons.

    The SHA-256 is of all that were asked, with their pictures: of equal ones, records can be put
    side by side.
    """
    data = revision(task.questions, task.choices) if kept is None else kept.facts["data"]
    asked = task.only(measured.numbers).questions
    images = len({question.image_id for question in asked})
    lost = [*measured.lost.values()]
    counted = {"sha256": data, "samples": len(asked), "images": images}
    return counted | ({"lost": lost} if lost else {})


def _others(loaded: LoadedModel, settings: Settings) -> int:
    """How many strategies there are that a comparison without plans leaves out unasked."""
    if settings.plans:
        return 0
    return len(host().strategies) - len(compared_strategies(loaded, settings))


def _settings(source: Source) -> dict[str, Any]:
    settings = source.settings
    return {
        "task": settings.task if source.data is None else source.data.name,
        **({} if settings.frames is None else {"frames": settings.frames}),
        # plans of the user's own run as written, unless a cost is solved for
        "match": "stage" if settings.plans and settings.match == "tokens" else settings.match,
        "jobs": settings.jobs,
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "new_tokens": settings.new_tokens,
        "resamples": RESAMPLES,
        "level": LEVEL,
        "resampled": "images, with all their samples",
    }
