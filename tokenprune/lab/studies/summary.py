"""What the records of a study state: accuracies with intervals, paired with dense and random."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenprune.lab.measure.metrics import ACCURACY
from tokenprune.lab.measure.statistics import Bootstrap, Interval, mcnemar
from tokenprune.lab.studies.load import DENSE
from tokenprune.lab.studies.seeds import Repeated, repeated, without_seed
from tokenprune.lab.studies.store import Record, digest

BASELINE = "random"

#: What differs between the cells of a group.
PLANS = ("name", "plan", "methods")

#: An interval wider than this share can't tell plans apart that differ by a few points (ours).
WIDE = 0.10

#: Random is a baseline for plans whose mean number of tokens differs by no more than this (ours).
CLOSE = 0.5


@dataclass(frozen=True)
class Row:
    """One cell, judged.

    Attributes:
        record: the cell's record.
        name: what the study calls the plan.
        accuracy: share of right answers.
        difference: accuracy minus that of dense, paired by sample; None without dense.
        versus_random: accuracy minus the mean of `random` over its seeds, at the same budgets or
            else at as many tokens; None without it.
        seeds: how many `random` plans that mean is over.
        mcnemar: exact p of McNemar's test against dense.
        agreement: share of answers equal to the dense ones.
        by_type: accuracy by question type.
        metrics: means of the study's other metrics.
        time: seconds of a batch as a share of dense, which ran beside it.
        flops: operations as a share of dense.
        warnings: what to beware of, in plain words.
    """

    record: Record
    name: str
    accuracy: Interval
    difference: Interval | None
    versus_random: Interval | None
    seeds: int
    mcnemar: float | None
    agreement: float | None
    by_type: dict[str, float]
    metrics: dict[str, Interval]
    time: Interval
    flops: float
    warnings: tuple[str, ...]

    @property
    def tokens(self) -> float:
        """Visual tokens per image: mean over the LLM's layers, or behind a plain encoder."""
        return _tokens(self.record)


@dataclass(frozen=True)
class Group:
    """The cells of one model on one task; they answered the same samples.

    Attributes:
        model: the model.
        task: the task.
        about: what all of them share: settings, weights, data, code, environment.
        rows: dense first.
        repeated: plans that the rows hold under several seeds.
        failed: names of failed cells with their reasons.
    """

    model: str
    task: str
    about: dict[str, Any]
    rows: tuple[Row, ...]
    repeated: tuple[Repeated, ...]
    failed: dict[str, str]


def summarise(records: Sequence[Record], seed: int = 0) -> list[Group]:
    """Judge records, group by group; those of one group differ in the plan alone.

    Args:
        records: in the order of the rows; dense is put first.
        seed: of the resampling.
    """
    sets: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda r: r.identity["name"] != DENSE):
        sets[digest(_shared(record))].append(record)
    return [_group(mine, seed) for mine in sets.values()]


def _shared(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.identity.items() if key not in PLANS}


def _group(records: Sequence[Record], seed: int) -> Group:
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
    about = _shared(records[0])
    model, task = about["model"]["name"], about["task"].get("name") or about["task"]["kind"]
    several = repeated([(row.record, row.accuracy.value) for row in rows])
    return Group(model, task, about, rows, tuple(several), failed)


class _Judge:
    """Paired statistics of the cells of one group."""

    def __init__(self, records: Sequence[Record], seed: int) -> None:
        samples = records[0].result["samples"]
        self._pictures = len({sample["group"] for sample in samples})
        self._boot = Bootstrap([sample["group"] for sample in samples], seed)
        self._batches = Bootstrap(range(len(records[0].result["wall"])), seed)
        self._dense = next((r for r in records if r.identity["name"] == DENSE), None)
        self._random = [record for record in records if set(_strategies(record)) == {BASELINE}]

    def row(self, record: Record) -> Row:
        """One record among its peers."""
        right, result = _right(record), record.result
        accuracy = self._boot.mean(right)
        paired = self._dense is not None and record is not self._dense
        dense = _right(self._dense) if self._dense is not None else right
        others = [_right(other) for other in self._baselines(record)]
        versus = self._boot.difference(right, np.mean(others, axis=0)) if others else None
        time = self._batches.ratio(result["wall"], result["dense_wall"])
        return Row(
            record=record,
            name=str(record.identity["name"]),
            accuracy=accuracy,
            difference=self._boot.difference(right, dense) if paired else None,
            versus_random=versus,
            seeds=len(others),
            mcnemar=mcnemar([*map(bool, right)], [*map(bool, dense)]) if paired else None,
            agreement=_agreement(record, self._dense) if paired and self._dense else None,
            by_type=_by_type(record),
            metrics=self._metrics(record),
            time=time,
            flops=result["flops"] / result["dense_flops"] if result["dense_flops"] else 1.0,
            warnings=_warnings(
                accuracy,
                versus,
                time,
                record is self._dense,
                result["failures"],
                self._pictures,
            ),
        )

    def _baselines(self, record: Record) -> list[Record]:
        """Random plans at the same place and budget, else at as many tokens; all their seeds."""
        if record is self._dense or record in self._random:
            return []
        same = [one for one in self._random if _budgets(one) == _budgets(record)]
        close = [one for one in self._random if abs(_tokens(one) - _tokens(record)) <= CLOSE]
        chosen = same or close
        return [one for one in chosen if without_seed(one) == without_seed(chosen[0])]

    def _metrics(self, record: Record) -> dict[str, Interval]:
        samples = record.result["samples"]
        names = samples[0].get("scores", {})
        return {
            name: self._boot.mean(np.asarray([s["scores"][name] for s in samples]))
            for name in names
            if name != ACCURACY
        }


def _warnings(
    accuracy: Interval,
    versus: Interval | None,
    time: Interval,
    is_dense: bool,
    failures: Sequence[str],
    pictures: int,
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
    if accuracy.low == accuracy.high:
        hidden = min(3 / pictures, 1.0)  # the rule of three: 95 % sure that it is no more
        found.append(
            f"all answers are {'right' if accuracy.value else 'wrong'}, so the interval is empty; "
            f"with these {pictures} pictures up to {hidden:.0%} the other way can't be excluded"
        )
    return tuple(found)


def _tokens(record: Record) -> float:
    tokens = record.result["tokens"]
    return float(tokens.get("llm_average", tokens.get("encoder", 0.0)))


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
