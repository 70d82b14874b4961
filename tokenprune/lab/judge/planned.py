"""What a row's plan is, as columns: what stands where with which budget, and what a grid varied."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from tokenprune.lab.measure.entries import budgets
from tokenprune.plan import Plan

#: Headings of the columns that every row has.
PLANNED = ("strategy", "stage", "keep", "seed", "plan digest")

Cell = str | int | float | bool | None


@dataclass(frozen=True)
class Planned:
    """A plan and the values that a grid put into it.

    Attributes:
        plan: resolved; without stages for the dense model.
        varied: values by dotted place.
    """

    plan: Plan
    varied: Mapping[str, Any] = field(default_factory=dict)

    def cells(self, places: Sequence[str]) -> list[Cell]:
        """One value for each of `PLANNED`, then one for each place of a grid.

        A plan that stands beside a grid states what it has at the grid's places.

        Args:
            places: dotted places that any row's grid varied.
        """
        data = self.plan.model_dump(mode="json", exclude_none=True)
        found = [self.varied.get(place, _at(data, place)) for place in places]
        return [*self._about(), *map(_flat, found)]

    def _about(self) -> list[Cell]:
        stages = self.plan.stages
        if not stages:
            return ["dense", None, None, None, None]
        keeps = budgets(self.plan)
        single = stages[0].keep if len(stages) == 1 else None
        return [
            _joined([stage.strategy for stage in stages]),
            _joined([stage.at for stage in stages]),
            single if isinstance(single, int | float) else " + ".join(keeps),
            self.plan.seed,
            plan_digest(self.plan),
        ]


def places_of(rows: Sequence[Planned]) -> list[str]:
    """Every dotted place that a grid of these rows varied, in the order of the rows.

    The seed has a column anyway.
    """
    found = dict.fromkeys(place for row in rows for place in row.varied)
    return [place for place in found if place not in PLANNED]


def plan_digest(plan: Plan) -> str:
    """SHA-256 of a plan without its name: equal for plans that do the same."""
    data = plan.model_dump(mode="json", exclude={"name"}, exclude_none=True)
    return sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _joined(words: Sequence[str]) -> str:
    return " + ".join(dict.fromkeys(words))


def _at(data: Any, place: str) -> Any:
    """The value at a dotted place of plain data; None if there is none."""
    for part in place.split("."):
        if isinstance(data, Mapping):
            data = data.get(part)
        elif isinstance(data, list) and part.isdecimal() and int(part) < len(data):
            data = data[int(part)]
        else:
            return None
    return data


def _flat(value: Any) -> Cell:
    """A value as one cell: mappings and lists as JSON."""
    if value is None or isinstance(value, str | int | float):
        return value
    return json.dumps(value)
