"""The records of a study, judged group by group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenprune.lab.judge import Judge, Result, Run, Samples
from tokenprune.lab.judge.planned import Planned
from tokenprune.lab.judge.seeds import Repeated, repeated
from tokenprune.lab.judge.tables import Line
from tokenprune.lab.measure.entries import Entry
from tokenprune.lab.measure.metrics import ACCURACY
from tokenprune.lab.studies.load import DENSE
from tokenprune.lab.studies.store import Record, digest
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
        plans: of all cells, by name.
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


def lines(groups: Sequence[Group]) -> list[Line]:
    """All cells of all groups as lines of a file, failed ones behind the others of their group."""
    found = []
    for group in groups:
        about = (group.model, group.task)
        found += [Line((*about, row.name), group.plans[row.name], row) for row in group.rows]
        found += [
            Line((*about, name), group.plans[name], reason=reason)
            for name, reason in group.failed.items()
        ]
    return found


def run_of(record: Record) -> Run:
    """What the judge is given of the record of a finished cell."""
    result, samples = record.result, record.result["samples"]
    name = str(record.identity["name"])
    metrics = [metric for metric in samples[0].get("scores", {}) if metric != ACCURACY]
    return Run(
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
    )


def _planned(record: Record) -> Planned:
    plan = Plan.model_validate(record.identity["plan"])
    return Planned(plan, record.identity.get("grid", {}))


def _shared(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.identity.items() if key not in PLANS}


def _group(records: Sequence[Record], seed: int) -> Group:
    done = [record for record in records if record.status == "done"]
    failed = {
        str(record.identity["name"]): str(record.result.get("reason", ""))
        for record in records
        if record.status != "done"
    }
    rows: list[Result] = []
    if done:
        samples = done[0].result["samples"]
        asked = Samples([one["group"] for one in samples], [one["kind"] for one in samples])
        rows = Judge(asked, [run_of(record) for record in done], seed).results()
    about = _shared(records[0])
    model, task = about["model"]["name"], about["task"].get("name") or about["task"]["kind"]
    plans = {str(record.identity["name"]): _planned(record) for record in records}
    added = tuple(
        str(record.identity["name"]) for record in records if record.identity.get("added")
    )
    return Group(model, task, about, tuple(rows), tuple(repeated(rows)), failed, plans, added)
