"""What the records of a study state: accuracies with intervals, paired with dense and random."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenprune.compare.statistics import Bootstrap, Interval, mcnemar
from tokenprune.studies.load import DENSE
from tokenprune.studies.store import Record

BASELINE = "random"

#: An interval wider than this share can't tell plans apart that differ by a few points (ours).
WIDE = 0.10


@dataclass(frozen=True)
class Row:
    """One cell, judged.

    Attributes:
        record: the cell's record.
        name: what the study calls the plan.
        accuracy: share of right answers.
        difference: accuracy minus that of dense, paired by sample; None without dense.
        versus_random: accuracy minus that of `random` at the same budgets; None without it.
        mcnemar: exact p of McNemar's test against dense.
        agreement: share of answers equal to the dense ones.
        by_type: accuracy by question type.
        time: seconds of a batch as a share of dense, which ran beside it.
        flops: operations as a share of dense.
        warnings: what to beware of, in plain words.
    """

    record: Record
    name: str
    accuracy: Interval
    difference: Interval | None
    versus_random: Interval | None
    mcnemar: float | None
    agreement: float | None
    by_type: dict[str, float]
    time: Interval
    flops: float
    warnings: tuple[str, ...]

    @property
    def tokens(self) -> float:
        """Visual tokens per image at the LLM's input, or behind the encoder."""
        tokens = self.record.result["tokens"]
        return float(tokens.get("llm", tokens.get("encoder", 0.0)))


@dataclass(frozen=True)
class Group:
    """The cells of one model on one task; they answered the same samples.

    Attributes:
        model: the model.
        task: the task.
        rows: dense first.
        failed: names of failed cells with their reasons.
    """

    model: str
    task: str
    rows: tuple[Row, ...]
    failed: dict[str, str]


def summarise(records: Sequence[Record], seed: int = 0) -> list[Group]:
    """Judge records, model by model and task by task."""
    sets: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        about = record.identity
        sets[about["model"]["name"], about["task"]["kind"], about["data"]].append(record)
    return [_group(model, task, mine, seed) for (model, task, _), mine in sets.items()]


def _group(model: str, task: str, records: Sequence[Record], seed: int) -> Group:
    done = [record for record in records if record.status == "done"]
    failed = {
        str(record.identity["name"]): str(record.result.get("reason", ""))
        for record in records
        if record.status != "done"
    }
    rows: tuple[Row, ...] = ()
    if done:
        judge = _Judge(done, seed)
        rows = tuple(judge.row(record) for record in done)
    return Group(model, task, rows, failed)


class _Judge:
    """Paired statistics of the cells of one group."""

    def __init__(self, records: Sequence[Record], seed: int) -> None:
        samples = records[0].result["samples"]
        self._boot = Bootstrap([sample["group"] for sample in samples], seed)
        self._batches = Bootstrap(range(len(records[0].result["wall"])), seed)
        self._dense = next((r for r in records if r.identity["name"] == DENSE), None)
        self._random = {
            _budgets(record): record for record in records if _strategies(record) == [BASELINE]
        }

    def row(self, record: Record) -> Row:
        """One record among its peers."""
        right, result = _right(record), record.result
        accuracy = self._boot.mean(right)
        paired = self._dense is not None and record is not self._dense
        dense = _right(self._dense) if self._dense is not None else right
        other = self._random.get(_budgets(record))
        versus = None
        if other is not None and other is not record and record is not self._dense:
            versus = self._boot.difference(right, _right(other))
        time = self._batches.ratio(result["wall"], result["dense_wall"])
        return Row(
            record=record,
            name=str(record.identity["name"]),
            accuracy=accuracy,
            difference=self._boot.difference(right, dense) if paired else None,
            versus_random=versus,
            mcnemar=mcnemar([*map(bool, right)], [*map(bool, dense)]) if paired else None,
            agreement=_agreement(record, self._dense) if paired and self._dense else None,
            by_type=_by_type(record),
            time=time,
            flops=result["flops"] / result["dense_flops"] if result["dense_flops"] else 1.0,
            warnings=_warnings(accuracy, versus, time, record is self._dense, result["failures"]),
        )


def _warnings(
    accuracy: Interval,
    versus: Interval | None,
    time: Interval,
    is_dense: bool,
    failures: Sequence[str],
) -> tuple[str, ...]:
    found = [str(failure) for failure in failures]
    if versus is not None and versus.value < 0:
        sure = "" if versus.excludes(0.0) else ", though the interval includes 0"
        found.append(f"worse than keeping random tokens{sure}")
    if not is_dense and time.value > 1:
        sure = "" if time.excludes(1.0) else ", though the interval includes 1"
        found.append(f"slower than the dense model{sure}")
    if accuracy.high - accuracy.low > WIDE:
        found.append("too few samples: the interval is too wide to tell small differences")
    return tuple(found)


def _right(record: Record) -> Any:
    return np.asarray([sample["right"] for sample in record.result["samples"]], dtype=np.float64)


def _by_type(record: Record) -> dict[str, float]:
    kinds: dict[str, list[float]] = defaultdict(list)
    for sample in record.result["samples"]:
        if sample["kind"]:
            kinds[sample["kind"]].append(float(sample["right"]))
    return {kind: sum(values) / len(values) for kind, values in sorted(kinds.items())}


def _agreement(record: Record, dense: Record) -> float:
    pairs = zip(record.result["samples"], dense.result["samples"], strict=True)
    same = [mine["answer"] == theirs["answer"] for mine, theirs in pairs]
    return float(sum(same) / len(same))


def _strategies(record: Record) -> list[str]:
    return [stage["strategy"] for stage in record.identity["plan"].get("stages", ())]


def _budgets(record: Record) -> str:
    """Where and how much is kept, whoever chooses."""
    stages = record.identity["plan"].get("stages", ())
    kept = [[stage["at"], stage.get("layer"), stage.get("keep")] for stage in stages]
    return str(kept)
