"""The records of a study, judged group by group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenprune.lab.judge import Judge, PlanRun, Result, Samples
from tokenprune.lab.judge.planned import Planned
from tokenprune.lab.judge.seeds import Repeated, repeated
from tokenprune.lab.judge.tables import Line
from tokenprune.lab.measure.code import digest
from tokenprune.lab.measure.entries import Entry
from tokenprune.lab.measure.metrics import ACCURACY
from tokenprune.lab.studies.load import DENSE
from tokenprune.lab.studies.store import Record
from tokenprune.plan import Plan

#: What differs between the cells of a group.
PLANS = ("name", "plan", "methods", "grid", "added")


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
        plans: of failed cells, by name; under one name there may be rows of other plans, which an
            earlier version of the study had.
        added: names of the plans that the study added as baselines.
    """

    model: str
    task: str
    about: dict[str, Any]
    rows: tuple[Result, ...]
    repeated: tuple[Repeated, ...]
    failed: dict[str, str]
    plans: dict[str, Planned]
    added: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Model and task."""
        return f"{self.model}, {self.task}"


def summarise(records: Sequence[Record]) -> list[Group]:
    """Judge records, group by group; those of one group differ in the plan alone.

    Resamples are drawn with the seed of the study that a group was recorded for.

    Args:
        records: in the order of the rows; dense is put first.
    """
    sets: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda r: r.identity["name"] != DENSE):
        sets[digest(_shared(record))].append(record)
    return [_group(mine) for mine in sets.values()]


def lines(groups: Sequence[Group]) -> list[Line]:
    """All cells of all groups as lines of a file, failed ones behind the others of their group."""
    found = []
    for group in groups:
        about = (group.model, group.task)
        found += [
            Line((*about, row.name), Planned(row.run.plan, row.run.varied), row)
            for row in group.rows
        ]
        found += [
            Line((*about, name), group.plans[name], reason=reason)
            for name, reason in group.failed.items()
        ]
    return found


def run_of(record: Record, numbers: Collection[int] | None = None) -> PlanRun:
    """What the judge is given of the record of a finished cell.

    Args:
        record: of the cell.
        numbers: of the samples that count; default: all that it holds.
    """
    result = record.result
    samples = [one for number, one in _numbered(record) if numbers is None or number in numbers]
    lost = {one["number"]: one["reason"] for one in result.get("left_out", ())}
    lost |= {
        number: "another cell of the group left it out"
        for number, _ in _numbered(record)
        if numbers is not None and number not in numbers
    }
    name = str(record.identity["name"])
    metrics = [metric for metric in samples[0].get("scores", {}) if metric != ACCURACY]
    return PlanRun(
        entry=Entry(name, Plan.model_validate(record.identity["plan"])),
        dense=name == DENSE,
        right=np.asarray([sample["right"] for sample in samples], dtype=np.float64),
        answers=[sample["answer"] for sample in samples],
        wall=result["wall"],
        dense_wall=result["dense_wall"],
        tokens=result["tokens"],
        seconds=result["seconds"],
        flops=result["flops"],
        dense_flops=result["dense_flops"],
        scores={name: [sample["scores"][name] for sample in samples] for name in metrics},
        failures=result["failures"],
        peak_bytes=result["peak_bytes"],
        shown=result.get("shown", ()),
        varied=record.identity.get("grid", {}),
        unknown=result.get("unknown", ()),
        lost=tuple(lost.values()),
        counted=result.get("flops_samples", 0),
        answered=len(result["samples"]),
    )


def _planned(record: Record) -> Planned:
    plan = Plan.model_validate(record.identity["plan"])
    return Planned(plan, record.identity.get("grid", {}))


def _numbered(record: Record) -> list[tuple[int, dict[str, Any]]]:
    """The samples of a record, each with its number in the task."""
    samples = enumerate(record.result["samples"])
    return [(one.get("number", place), one) for place, one in samples]


def _common(records: Sequence[Record]) -> dict[int, dict[str, Any]]:
    """The samples that all cells of a group answered, by number, as the first one has them."""
    first, *others = [dict(_numbered(record)) for record in records]
    return {number: one for number, one in first.items() if all(number in o for o in others)}


def _alike(records: Sequence[Record], failed: dict[str, str]) -> list[Record]:
    """The records that can be judged together; others become failed ones, with the reason.

    Samples may be missing here and there, but nothing is left of two sets that share none.
    """
    found: list[Record] = []
    for record in records:
        first = found[0] if found else record
        if not {n for n, _ in _numbered(record)} & {n for n, _ in _numbered(first)}:
            failed[str(record.identity["name"])] = "it answered none of the others' samples"
        elif _metrics(record) != _metrics(first):
            failed[str(record.identity["name"])] = "its samples have other scores than the others'"
        else:
            found.append(record)
    return found


def _metrics(record: Record) -> set[str]:
    return {name for _, sample in _numbered(record) for name in sample.get("scores", {})}


def _shared(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.identity.items() if key not in PLANS}


def _group(records: Sequence[Record]) -> Group:
    about = _shared(records[0])
    done = [record for record in records if record.status == "done"]
    failed = {
        str(record.identity["name"]): str(record.result.get("reason", ""))
        for record in records
        if record.status != "done"
    }
    rows: list[Result] = []
    done = _alike(done, failed)
    if done:
        common = _common(done)
        asked = Samples(
            [one["group"] for one in common.values()], [one["kind"] for one in common.values()]
        )
        seed = about["settings"].get("seed", 0)
        rows = Judge(asked, [run_of(record, common) for record in done], seed).results()
    model, task = about["model"]["name"], about["task"].get("name") or about["task"]["kind"]
    plans = {
        str(record.identity["name"]): _planned(record) for record in records if record not in done
    }
    added = tuple(
        str(record.identity["name"]) for record in records if record.identity.get("added")
    )
    return Group(model, task, about, tuple(rows), tuple(repeated(rows)), failed, plans, added)
