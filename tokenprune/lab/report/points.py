"""Rows as points over a cost, the lines that join the budgets of a method, and both in words."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from tokenprune.lab.judge import Result
from tokenprune.lab.report.families import COSTS, cost_of, family
from tokenprune.lab.studies.load import DENSE

#: From this ratio of the most tokens to the least on, their axis is logarithmic (ours).
APART = 6


@dataclass(frozen=True)
class Point:
    """One plan in a plot.

    Attributes:
        x: cost.
        y: accuracy.
        low: lower end of its interval.
        high: upper end.
        family: points of one family share marker and colour.
        label: what is shown beside the marker when pointed at.
        budget: what is kept; empty for the dense model.
        line: points of one line differ in budget and seed alone.
    """

    x: float
    y: float
    low: float
    high: float
    family: str
    label: str
    budget: str = ""
    line: str = ""


def point(row: Result, cost: str) -> Point:
    """A row in the plot over one of `COSTS`."""
    x = cost_of(row, cost)
    return Point(
        x,
        row.accuracy.value,
        row.accuracy.low,
        row.accuracy.high,
        family(row),
        f"{row.name}: {row.accuracy.value:.1%} at {x:.3g}",
        "" if row.run.dense else row.keep,
        _line(row),
    )


def front(points: Sequence[Point]) -> list[Point]:
    """Points that no other one beats in both cost and accuracy, by ascending cost."""
    best: list[Point] = []
    for one in sorted(points, key=lambda p: (p.x, -p.y)):
        if not best or one.y > best[-1].y:
            best.append(one)
    return best


def lines(points: Sequence[Point]) -> list[tuple[str, list[tuple[float, float]]]]:
    """The budgets of every method with two or more, joined: family, and places by ascending cost.

    Seeds of one budget count as their mean.
    """
    found: dict[tuple[str, str], dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for one in points:
        found[one.family, one.line][one.budget].append(one)
    return [
        (name, sorted((fmean(p.x for p in same), fmean(p.y for p in same)) for same in mine))
        for (name, _), budgets in found.items()
        if len(mine := list(budgets.values())) > 1
    ]


def doublings(points: Sequence[Point], cost: str) -> list[float]:
    """Powers of two from the least to the most tokens, as ticks of a logarithmic axis.

    Empty where a plain axis, from 0 on, shows the points well: of other costs, and of budgets that
    lie close together.
    """
    least, most = min(p.x for p in points), max(p.x for p in points)
    if cost != "tokens" or least < 1 or most < APART * least:
        return []
    first, last = math.floor(math.log2(least)), math.ceil(math.log2(most))
    return [2.0**power for power in range(first, last + 1)]


def in_words(points: Sequence[Point], cost: str) -> str:
    """A plot as text, a sentence a family: for those who can't see it."""
    told: dict[str, list[str]] = defaultdict(list)
    for one in sorted(points, key=lambda p: p.x):
        kept = f"keep {one.budget}: " if one.budget else ""
        interval = f"{100 * one.low:.1f} to {100 * one.high:.1f}"
        told[one.family].append(f"{kept}{100 * one.y:.1f} % ({interval}) at {one.x:.3g}")
    sentences = (f"{name}: {'; '.join(parts)}." for name, parts in told.items())
    return f"Accuracy over {COSTS[cost]}. {' '.join(sentences)}"


def _line(row: Result) -> str:
    """What rows share that differ in budget, seed and name alone."""
    if row.run.dense:
        return DENSE
    stages = [
        stage.model_copy(update={"keep": None, "keep_text": None}) for stage in row.run.plan.stages
    ]
    plain = row.run.plan.model_copy(update={"stages": tuple(stages), "seed": 0, "name": None})
    return plain.model_dump_json(exclude_none=True)
