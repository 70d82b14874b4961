"""From measurements to what a comparison states: ratios, intervals and marks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tokenprune.lab.data.question import Question
from tokenprune.lab.measure.entries import Entry
from tokenprune.lab.measure.run import Measured, Measurement
from tokenprune.lab.measure.statistics import Array, Bootstrap, Interval, mcnemar
from tokenprune.lab.measure.task import Task
from tokenprune.plan import dump_plan

BASELINE = "random"


@dataclass(frozen=True)
class Result:
    """One row.

    Attributes:
        name: strategy or plan, `dense` for the model alone.
        keep: the budget, as in the plan.
        meaning: what its number counts.
        group: rows of one group belong together.
        budget: rows of one budget are compared with each other.
        positions: position ids of the survivors.
        plan: the plan as YAML.
        accuracy: share of right answers.
        retention: accuracy as a share of the dense accuracy.
        difference: accuracy minus dense accuracy.
        agreement: share of answers equal to the dense ones.
        mcnemar: exact p of McNemar's test against dense.
        by_type: accuracy by question type.
        versus_random: accuracy minus that of `random` at the same budget.
        tokens: measured mean tokens per image by stage.
        lengths: least, middle and most tokens of an image, mean over the LLM's layers, where the
            method sets them.
        flops: operations per sample.
        flops_ratio: as a share of dense.
        seconds: exclusive seconds per sample by stage.
        time: seconds by stage as a share of the same stage of dense; `select` as a share of the
            whole dense time, because dense selects nothing.
        total: seconds as a share of dense, over the same batches.
        probe: by place, the share of the encoder's information that can still be read there.
        marks: what to notice, in words.
        answers: one a sample.
    """

    name: str
    keep: str
    meaning: str
    group: str
    budget: str
    positions: str
    plan: str
    accuracy: Interval
    retention: Interval
    difference: Interval
    agreement: float
    mcnemar: float
    by_type: dict[str, float]
    versus_random: Interval | None
    tokens: dict[str, float]
    lengths: dict[str, float] | None
    flops: float
    flops_ratio: float
    seconds: dict[str, float]
    time: dict[str, float | None]
    total: Interval
    probe: dict[str, Interval] = field(default_factory=dict)
    marks: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)


class Summary:
    """The statistics of one measurement; all intervals come from the same resamples.

    Args:
        task: what was asked.
        measured: what came back.
        seed: of the resampling.
    """

    def __init__(self, task: Task, measured: Measurement, seed: int = 0) -> None:
        self._task, self._measured = task, measured
        self._samples = Bootstrap([q.image_id for q in task.questions], seed)
        self._batches = Bootstrap(range(len(task.batches)), seed)
        self._dense_right = self._right(measured.dense)
        self._random = {
            key: self._right(row)
            for row in measured.plans
            if (entry := row.entry) and entry.strategy == BASELINE
            for key in [_peer(entry)]
        }

    def dense(self) -> Result:
        """The row of the model alone, its stages timed by the idle plan."""
        return self._result(self._measured.dense, Entry("dense", self._idle.plan))

    def plans(self) -> list[Result]:
        """One row a plan."""
        return [self._result(row, row.entry) for row in self._measured.plans if row.entry]

    @property
    def _idle(self) -> Entry:
        assert self._measured.idle.entry is not None
        return self._measured.idle.entry

    def _right(self, row: Measured) -> Array:
        pairs = zip(row.answers, self._task.questions, strict=True)
        return np.asarray([self._task.right(answer, q) for answer, q in pairs], dtype=np.float64)

    def _result(self, row: Measured, entry: Entry) -> Result:
        right, dense = self._right(row), self._measured.dense
        timed = self._measured.idle if row is dense else row
        versus = self._versus_random(entry, right)
        assert row.beside is not None
        total = self._batches.ratio(row.wall, row.beside.wall)
        samples = len(self._task.questions)
        return Result(
            name=entry.name,
            keep=entry.keep,
            meaning=entry.meaning,
            group=entry.group,
            budget=entry.peers,
            positions=entry.plan.positions,
            plan=dump_plan(entry.plan),
            accuracy=self._samples.mean(right),
            retention=self._samples.ratio(right, self._dense_right),
            difference=self._samples.difference(right, self._dense_right),
            agreement=_agreement(row.answers, dense.answers),
            mcnemar=mcnemar([*map(bool, right)], [*map(bool, self._dense_right)]),
            by_type=by_type(right, self._task.questions),
            versus_random=versus,
            tokens=dict(timed.tokens),
            lengths=spread_of(row.lengths),
            flops=row.flops,
            flops_ratio=row.flops / dense.flops if dense.flops else float("nan"),
            seconds={stage: spent / samples for stage, spent in timed.seconds.items()},
            time=self._time(timed),
            total=total,
            marks=marks(versus, total),
            answers=list(row.answers),
        )

    def _versus_random(self, entry: Entry, right: Array) -> Interval | None:
        other = self._random.get(_peer(entry))
        if other is None or entry.strategy == BASELINE:
            return None
        return self._samples.difference(right, other)

    def _time(self, row: Measured) -> dict[str, float | None]:
        assert row.beside is not None
        spans = {stage: row.beside.idle.get(stage, 0.0) for stage in row.seconds}
        spans["select"] = sum(row.beside.idle_wall)
        return {
            stage: spent / spans[stage] if spans[stage] else None
            for stage, spent in row.seconds.items()
        }


def marks(versus_random: Interval | None, total: Interval) -> list[str]:
    """What to notice of a row: weaker than random, slower than dense; and how sure that is."""
    found = []
    if versus_random is not None and versus_random.value < 0:
        sure = "interval excludes 0" if versus_random.excludes(0.0) else "interval includes 0"
        found.append(f"below random ({sure})")
    if total.value > 1:
        sure = "interval excludes 1" if total.excludes(1.0) else "interval includes 1"
        found.append(f"slower than dense ({sure})")
    return found


def by_type(right: Array, questions: Sequence[Question]) -> dict[str, float]:
    """Accuracy by question type, for samples that have one."""
    kinds: dict[str, list[float]] = defaultdict(list)
    for value, question in zip(right, questions, strict=True):
        if question.kind:
            kinds[question.kind].append(float(value))
    return {kind: sum(values) / len(values) for kind, values in sorted(kinds.items())}


def spread_of(lengths: Sequence[float]) -> dict[str, float] | None:
    """Least, middle and most of the images' token counts; None without any."""
    if not lengths:
        return None
    return {"least": min(lengths), "middle": float(np.median(lengths)), "most": max(lengths)}


def _agreement(answers: Sequence[str], others: Sequence[str]) -> float:
    same = sum(a == b for a, b in zip(answers, others, strict=True))
    return same / len(answers)


def _peer(entry: Entry) -> tuple[Any, ...]:
    """What rows must share to be compared with `random`."""
    return entry.group, entry.plan.positions, entry.peers
