"""One sentence about a group, for readers who read no more."""

from __future__ import annotations

from tokenprune.lab.judge import Result
from tokenprune.lab.studies.summary import Group


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
    samples = len(dense.run.right)
    if not faster:
        return (
            "no plan is faster than the dense model without a loss that can be measured on these "
            f"{samples} samples."
        )
    best = min(faster, key=lambda row: row.total.value)
    return (
        f"the fastest plan without a loss that can be measured on these {samples} samples is "
        f"{best.name}: {_percent(best)} against {_percent(dense)}, {best.run.mean_tokens:.1f} of "
        f"{dense.run.mean_tokens:.1f} tokens, {best.total.value:.2f} of the time."
    )


def _percent(row: Result) -> str:
    return f"{100 * row.accuracy.value:.1f} %"
