"""Dense and plans in turn on every workload, round by round in one process."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import torch

from tokenprune.engine.attach import attach
from tokenprune.errors import DataError
from tokenprune.interface.loading import LoadedMllm, LoadedModel
from tokenprune.lab.bench.backends import fastest_backend
from tokenprune.lab.bench.compiling import (
    check_compile,
    compilations,
    compiled,
    compiled_part,
    room,
    settle,
)
from tokenprune.lab.bench.inputs import check_length, check_lengths
from tokenprune.lab.bench.rows import DENSE, BenchRow, Lane, rows_of
from tokenprune.lab.bench.runners import Timed, runner_for
from tokenprune.lab.bench.settings import BenchSettings
from tokenprune.lab.bench.workload import Workload, batches
from tokenprune.lab.clips import check_clips, on_clips
from tokenprune.lab.data.question import Question
from tokenprune.lab.measure.telling import Say, Tell, duration
from tokenprune.lab.trained import check_trained_for
from tokenprune.plan import Plan

Plans = Sequence[tuple[str, Plan]]


def bench(
    loaded: LoadedModel,
    plans: Plans,
    sizes: Sequence[Workload],
    settings: BenchSettings,
    tell: Tell | None = None,
    own: Sequence[Question] = (),
    say: Say | None = None,
) -> list[BenchRow]:
    """Measure every plan and dense on every workload.

    Args:
        loaded: the model.
        plans: name and plan.
        sizes: the workloads.
        settings: how.
        tell: told (runs done, runs in all, what runs).
        own: the user's pictures and questions instead of synthetic ones.
        say: told in a sentence, behind the first round of several, how long compiling will take.

    Returns:
        The rows; those of a workload share the attention backend that was fastest for dense.

    Raises:
        DataError: a workload has more tokens than the LLM has positions, or is about clips, and the
            model takes none.
        CheckpointError: a checkpoint was trained for another model.
        TokenpruneError: a plan doesn't fit the model, or can't be compiled.
    """
    for _, plan in plans:
        check_trained_for(loaded, plan)
    for size in {size.video: size for size in sizes}.values():
        if size.video and isinstance(loaded, LoadedMllm):
            check_clips(loaded, "--frames")
        for _, plan in plans_for(plans, size, loaded):
            attach(loaded.model, plan).detach()
    if settings.compile is not None:
        check_compile(loaded, plans, settings.compile)
    check_lengths(loaded, sizes)
    rows: list[BenchRow] = []
    with torch.no_grad(), room():
        for number, size in enumerate(sizes):

            def told(done: int, total: int, label: str, at: int = number) -> None:
                if tell is not None:
                    tell(at * total + done, total * len(sizes), label)

            runner, load = runner_for(loaded, batches(size, settings, own), size)
            for inputs in runner.batches:
                check_length(loaded, inputs, size)
            backend = fastest_backend(loaded, runner)
            lanes = _lanes(loaded, plans_for(plans, size, loaded), settings)
            _measure(runner, lanes, settings, told, say)
            rows += rows_of(lanes, size, load, backend)
    return rows


def plans_for(plans: Plans, size: Workload, loaded: LoadedModel) -> list[tuple[str, Plan]]:
    """The plans as a workload runs them, which may be about clips."""
    if not size.video or not isinstance(loaded, LoadedMllm):
        return list(plans)
    return [(name, on_clips(plan, loaded)) for name, plan in plans]


def _lanes(loaded: LoadedModel, plans: Plans, settings: BenchSettings) -> list[Lane]:
    lanes = [Lane(DENSE, None, loaded.model)]
    lanes += [Lane(name, plan, loaded.model) for name, plan in plans]
    if settings.compile is not None:
        part = compiled_part(loaded)
        lanes += [compiled(lane, settings.compile, part) for lane in lanes]
    return lanes


def _measure(
    runner: Timed, lanes: list[Lane], settings: BenchSettings, tell: Tell, say: Say | None
) -> None:
    total = len(lanes) * (settings.rounds + 1)
    label = runner.size.label
    for number, lane in enumerate(lanes):
        tell(number, total, f"{label}: {lane.name}")
        _prepare(runner, lane, settings)
    rng = random.Random(settings.seed)
    order = list(lanes)
    for turn in range(settings.rounds):
        rng.shuffle(order)
        compiling = 0.0
        for number, lane in enumerate(order):
            tell(len(lanes) * (turn + 1) + number, total, f"{label}: {lane.name}")
            if lane.twin is None:
                runner.time(lane, turn)
                continue
            compiling += _time_compiled(runner, lane, turn)
        left = settings.rounds - turn - 1
        if say is not None and turn == 0 and compiling and left:
            say(
                f"compiling took {duration(compiling)} of the first round, and all rounds compile "
                f"afresh: in the {left} to come for {label} about {duration(left * compiling)}"
            )


def _time_compiled(runner: Timed, lane: Lane, turn: int) -> float:
    """Compile a row, then measure it; returns the seconds that compiling took."""
    start = time.perf_counter()
    settle(lane, lambda: runner.warm(lane))
    took = time.perf_counter() - start
    before = compilations()
    runner.time(lane, turn)
    if compilations() != before:
        raise DataError(f"'{lane.name}' was compiled while it was timed.", where="--compile")
    return took


def _prepare(runner: Timed, lane: Lane, settings: BenchSettings) -> None:
    if lane.twin is None:
        runner.prepare(lane, settings)
        return
    lane.take_over()
