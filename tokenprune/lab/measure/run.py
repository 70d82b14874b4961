"""Running dense and pruned calls side by side, batch by batch, so that machine drift cancels."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.attach import attach
from tokenprune.engine.stages import ResolvedStage
from tokenprune.interface.trace import ImageTrace
from tokenprune.lab.measure.counting import counted_batches, elements
from tokenprune.lab.measure.entries import Entry
from tokenprune.lab.measure.journal import Journal
from tokenprune.lab.measure.measurement import Beside, Measured, Measurement, why
from tokenprune.lab.measure.preparing import Preparing, Ready
from tokenprune.lab.measure.task import Task
from tokenprune.lab.measure.telling import Tell
from tokenprune.ops.flops import count_flops
from tokenprune.plan import Plan

#: One more dense run a batch for so many plans: dense is everybody's denominator.
PLANS_PER_DENSE = 8


def measure(
    task: Task,
    entries: Sequence[Entry],
    *,
    seed: int = 0,
    progress: Tell | None = None,
    journal: Journal | None = None,
) -> Measurement:
    """Run every plan and the dense model on every batch, in an order drawn anew for each.

    Some batches, spread evenly from the first to the last, are run once more before, untimed, to
    count FLOPs; the first one warms up, too. An optional row whose plan can't run isn't asked
    again, and says why. A sample that can't be prepared is left out of all rows.

    Args:
        task: samples and model.
        entries: the plans.
        seed: of the orders.
        progress: told (runs done, runs in all, what runs).
        journal: of this very measurement; batches in it aren't measured again.

    Raises:
        DataError: too many samples can't be prepared.
        TokenpruneError: a plan doesn't fit the model or fails, and its row isn't optional.
    """
    plans = [Measured(entry) for entry in entries]
    for row in plans:
        # a plan that doesn't fit ends the run before anything long has begun
        with _excused(row):
            attach(task.model, _plan(row)).detach()
    dense, idle = Measured(None), Measured(Entry("dense", Plan()))
    rows = [dense, idle, *plans]
    preparing = Preparing(task)
    with torch.no_grad(), journal or nullcontext():
        largest, resumed = _run_batches(task, rows, seed, preparing, journal, progress)
    for row in rows:
        row.beside = Beside(dense.wall, idle.wall, dict(idle.seconds))
    return Measurement(dense, idle, plans, lost=preparing.lost, largest=largest, resumed=resumed)


def _run_batches(
    task: Task,
    rows: Sequence[Measured],
    seed: int,
    preparing: Preparing,
    journal: Journal | None,
    progress: Tell | None,
) -> tuple[list[int], int]:
    """Run every batch that isn't in the journal.

    Returns:
        The samples of the largest batch of all, and how many were in the journal.
    """
    dense, _, *plans = rows
    order = [*rows, *[dense] * (len(plans) // PLANS_PER_DENSE)]
    counted = counted_batches(len(task.batches))
    done, largest = (0, (-1, [0])) if journal is None else journal.restore(rows, preparing)
    runs = len(order) * len(task.batches) + len(counted) * (len(plans) + 1) + 1
    past = len(order) * done + sum((len(plans) + 1 + (not n)) for n in counted if n < done)
    tell, rng = _Teller(progress, runs, past), random.Random(seed)
    for _ in range(done):
        rng.shuffle(order)  # as it was for the batches of the journal
    for number, ready in enumerate(preparing.batches(), start=done):
        if number in counted:
            _count(task, ready, [dense, *plans] if number else rows, tell)
        elif number == done:
            _warm_up(task, ready, rows)
        rng.shuffle(order)
        _run_batch(task, ready, order, tell)
        largest = max(largest, (elements(ready.inputs), ready.numbers), key=itemgetter(0))
        if journal is not None:
            journal.add(ready.numbers, rows, preparing, largest)
    return largest[1], done


class _Teller:
    def __init__(self, progress: Tell | None, total: int, done: int) -> None:
        self._progress, self._total, self._done = progress, total, done

    def __call__(self, row: Measured) -> None:
        if self._progress is not None:
            label = "dense" if row.entry is None else row.entry.label
            self._progress(self._done, self._total, label)
        self._done += 1


@contextmanager
def _excused(row: Measured) -> Iterator[None]:
    """What an optional row raises is written down; what is short of memory isn't to blame."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if row.entry is None or not row.entry.optional:
            raise
        row.failure = why(error)


def _plan(row: Measured) -> Plan:
    assert row.entry is not None
    return row.entry.plan


def _count(task: Task, ready: Ready, rows: Sequence[Measured], tell: _Teller) -> None:
    for row in rows:
        tell(row)
        if row.failure:
            continue
        with _excused(row), _attached(task, row), count_flops() as counter:
            task.call(ready.inputs)
            row.count_flops(counter.total, len(ready.numbers))


def _warm_up(task: Task, ready: Ready, rows: Sequence[Measured]) -> None:
    """Call every row once, as the first batch of a run does, where a run goes on in the middle."""
    for row in rows:
        if row.failure:
            continue
        with _excused(row), _attached(task, row):
            task.call(ready.inputs)


def _attached(task: Task, row: Measured) -> AbstractContextManager[object]:
    if row.entry is None:
        return nullcontext()
    return attach(task.model, row.entry.plan, checks=row.checks)


def _run_batch(task: Task, ready: Ready, order: Sequence[Measured], tell: _Teller) -> None:
    walls: dict[int, list[float]] = defaultdict(list)
    for row in order:
        tell(row)
        if row.failure:
            continue
        with _excused(row):
            output, seconds = _run(task, ready.inputs, row)
            if id(row) not in walls:
                found = task.read(ready.inputs, output)
                row.answers.update(zip(ready.numbers, found, strict=True))
            walls[id(row)].append(seconds)
    for row in {id(row): row for row in order if not row.failure}.values():
        times = walls[id(row)]
        row.wall.append(sum(times) / len(times))


def _run(task: Task, inputs: Any, row: Measured) -> tuple[Tensor, float]:
    if row.entry is None:
        return _timed(task, inputs)
    with attach(task.model, row.entry.plan, checks=row.checks) as handle:
        output, seconds = _timed(task, inputs)
        for stage, spent in handle.meter.seconds.items():
            row.seconds[stage] += spent
        row.count(handle.meter)
        if _own_length(handle.stages):
            row.lengths += [tokens_in_llm(image) for image in handle.trace.images]
    return output, seconds


def _own_length(stages: Iterable[ResolvedStage]) -> bool:
    """Whether one of a plan's built stages leaves a number of tokens that depends on the data."""
    return not all(stage.strategy.length == "planned" for stage in stages)


def tokens_in_llm(image: ImageTrace) -> float:
    """Tokens of an image or of a frame of a video, averaged over the layers of the LLM.

    Without a stage inside the LLM it is the number that is handed to the LLM.
    """
    present, seen, total, layers = image.patches, 0, 0.0, 0
    for step in image.steps:
        if step.site.stage == "decoder":
            total += present * (step.site.layer - seen)
            seen, layers = step.site.layer, step.site.layers
        present = step.kept
    mean = (total + present * (layers - seen)) / layers if layers else float(present)
    return mean / image.grid[0]


def _timed(task: Task, inputs: Any) -> tuple[Tensor, float]:
    _synchronize(task)
    start = time.perf_counter()
    output = task.call(inputs)
    _synchronize(task)
    return output, time.perf_counter() - start


def _synchronize(task: Task) -> None:
    if next(task.model.parameters()).is_cuda:
        torch.cuda.synchronize()
