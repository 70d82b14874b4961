"""What the page shows of a group, ready for the template."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup

from tokenprune.errors.words import counted as counted_as
from tokenprune.errors.words import these
from tokenprune.lab.judge import Result
from tokenprune.lab.judge.columns import STAGES, counted
from tokenprune.lab.judge.warnings import gathered, notes
from tokenprune.lab.report.families import COSTS, family
from tokenprune.lab.report.overlays import PageImages, in_words, overlay
from tokenprune.lab.report.plots import legend_marker, scatter
from tokenprune.lab.report.points import Point, front, point
from tokenprune.lab.studies.baselines import WHY
from tokenprune.lab.studies.summary import Group
from tokenprune.plan import dump_plan


@dataclass(frozen=True)
class Bar:
    """The stage times of one row.

    Attributes:
        name: of the row.
        parts: stage by stage, width in percent of the longest row.
        total: share of the time that the dense model took beside it.
        words: the same as a sentence.
    """

    name: str
    parts: tuple[tuple[str, float], ...]
    total: float
    words: str


def group_view(group: Group, known: Sequence[str], pictures: PageImages) -> dict[str, Any]:
    """Everything that the template asks of one group.

    Args:
        group: with its rows.
        known: all families of the page in order.
        pictures: of the page; those of the group are added.
    """
    mine = {family(row) for row in group.rows}
    return {
        "model": group.model,
        "task": group.task,
        "settings": group.about["settings"],
        "data": group.about["data"],
        "weights": group.about["weights"],
        "rows": group.rows,
        "failed": group.failed,
        "legend": [
            (name, Markup(legend_marker(n))) for n, name in enumerate(known) if name in mine
        ],
        "plots": _plots(group, known),
        "warnings": gathered(group.rows),
        "notes": notes(group.rows),
        "metrics": list(group.rows[0].metrics) if group.rows else [],
        "kinds": _kinds(group.rows),
        "bars": _bars(group),
        "gallery": _gallery(group, pictures),
        "plans": [(row.name, dump_plan(row.run.plan)) for row in group.rows if not row.run.dense],
        "samples": counted_as(len(group.rows[0].run.right), "sample") if group.rows else "",
        "counted_on": group.rows[0].counted_on if group.rows else "",
        "milliseconds": _milliseconds(group),
        "headline": headline(group),
        "dashed": any(len(front(_points(group, cost))) > 1 for cost in COSTS),
        "repeated": group.repeated,
        "places": [
            (counted(key), key)
            for key in dict.fromkeys(k for row in group.rows for k in row.tokens)
        ],
        "added": group.added,
        "why": WHY,
    }


def headline(group: Group) -> str:
    """The fastest plan that isn't measurably less accurate than dense; empty without dense.

    A loss is measurable if its paired interval leaves out 0. With few samples none is, so the
    number of samples is said.
    """
    dense = next((row for row in group.rows if row.run.dense), None)
    if dense is None or len(group.rows) == 1:
        return ""
    fit = [row for row in group.rows if row.difference and row.difference.high >= 0]
    faster = [row for row in fit if row.total.value < 1 and not row.run.dense]
    samples = these(len(dense.run.right), "sample")
    if not faster:
        return (
            "no plan is faster than the dense model without a loss that can be measured on "
            f"{samples}."
        )
    best = min(faster, key=lambda row: row.total.value)
    return (
        f"the fastest plan without a loss that can be measured on {samples} is "
        f"{best.name}: {_percent(best)} against {_percent(dense)}, {best.run.mean_tokens:.1f} of "
        f"{dense.run.mean_tokens:.1f} tokens, {best.total.value:.2f} of the time ({_times(best)})."
    )


def _times(row: Result) -> str:
    """How sure a share of time is, in words."""
    batches, total = len(row.run.wall), row.total
    if not total.bounded:
        return f"of {counted_as(batches, 'batch', 'batches')}, too few for an interval"
    return f"95 % interval {total.low:.2f} to {total.high:.2f}"


def _percent(row: Result) -> str:
    return f"{100 * row.accuracy.value:.1f} %"


def _kinds(rows: Sequence[Result]) -> list[str]:
    """Types of questions by their mean accuracy over the plans, the hardest first."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for kind, accuracy in row.by_type.items():
            found[kind].append(accuracy)
    return sorted(found, key=lambda kind: (fmean(found[kind]), kind))


def _plots(group: Group, known: Sequence[str]) -> list[Markup]:
    if not group.rows:
        return []
    return [Markup(scatter(_points(group, cost), known, cost)) for cost in COSTS]


def _points(group: Group, cost: str) -> list[Point]:
    return [point(row, cost) for row in group.rows]


def _milliseconds(group: Group) -> float | None:
    """What the dense model takes per sample, in its own cell."""
    for row in group.rows:
        if row.run.dense:
            return 1000 * float(sum(row.run.wall)) / row.run.ran
    return None


def _bars(group: Group) -> list[Bar]:
    longest = max((sum(_spent(row)) for row in group.rows), default=0.0) or 1.0
    bars = []
    for row in group.rows:
        spent = dict(zip(STAGES, _spent(row), strict=True))
        words = ", ".join(f"{stage} {value:.3f}" for stage, value in spent.items())
        parts = tuple((stage, 100 * value / longest) for stage, value in spent.items())
        bars.append(Bar(row.name, parts, sum(spent.values()), words))
    return bars


def _spent(row: Result) -> list[float]:
    """Shares of the dense call's time, stage by stage.

    Cells run at different moments, so only the dense calls that took turns with a plan compare.
    """
    beside = sum(row.run.dense_wall) or 1.0
    return [row.run.seconds.get(stage, 0.0) / beside for stage in STAGES]


def _gallery(group: Group, pictures: PageImages) -> list[dict[str, Any]]:
    """Sample by sample, what every plan kept of it."""
    found: list[dict[str, Any]] = []
    for row in group.rows:
        for number, sample in enumerate(row.run.shown):
            if number == len(found):
                many = len(sample["frames"])
                found.append({"question": sample["question"], "frames": many, "plans": []})
            frames = sample["frames"]
            told = in_words(frames)
            drawn = Markup(overlay(frames, f"{row.name}: {told}", pictures))
            found[number]["plans"].append((row.name, told, drawn))
    return found
