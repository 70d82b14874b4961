"""From a measurement to what the judge is given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokenprune.lab.judge.result import PlanRun, Samples
from tokenprune.lab.measure.measurement import Measured, Measurement
from tokenprune.lab.measure.statistics import Array
from tokenprune.lab.measure.task import Task
from tokenprune.plan import positions_of


def samples_of(task: Task, measured: Measurement) -> Samples:
    """The samples of a task that every row answered."""
    questions = task.only(measured.numbers).questions
    return Samples([q.image_id for q in questions], [q.kind for q in questions])


def runs_of(task: Task, measured: Measurement) -> list[PlanRun]:
    """The dense model, then one run a plan.

    The stages of the dense model are timed, and its tokens counted, by the plan without stages.
    """
    idle = measured.idle
    found = [_run(task, measured, measured.dense, idle)]
    return found + [_run(task, measured, row, row) for row in measured.plans]


def _run(task: Task, measured: Measurement, row: Measured, timed: Measured) -> PlanRun:
    assert timed.entry is not None
    assert row.beside is not None
    assert timed.beside is not None
    entry, dense = timed.entry, measured.dense
    answers = measured.said(row)
    positions = positions_of(entry.plan)
    own = "" if positions == "original" else f", {positions}"
    return PlanRun(
        entry=entry,
        dense=row is dense,
        right=_right(task.only(measured.numbers), answers),
        answers=answers,
        wall=row.wall,
        dense_wall=row.beside.wall,
        tokens=dict(timed.tokens),
        seconds=dict(timed.seconds),
        flops=row.flops,
        dense_flops=dense.flops,
        dense_seconds={**timed.beside.idle, "select": sum(timed.beside.idle_wall)},
        lengths=row.lengths,
        unknown=task.unknown(),
        title=entry.name if row is dense else f"{entry.label}{own}",
        lost=tuple(measured.lost.values()),
        counted=row.counted,
        answered=len(row.answers),
    )


def _right(task: Task, answers: Sequence[str]) -> Array:
    pairs = zip(answers, task.questions, strict=True)
    return np.asarray([task.right(answer, q) for answer, q in pairs], dtype=np.float64)
