"""A calibration as a table and a sentence for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.table import Table
from rich.text import Text

from tokenprune.errors.words import counted
from tokenprune.lab.calibrate.forms import forms, written
from tokenprune.lab.calibrate.goals import lowest
from tokenprune.lab.calibrate.run import Calibration
from tokenprune.lab.judge.columns import RESULTS
from tokenprune.lab.judge.result import Result
from tokenprune.lab.judge.tables import MIDDLE, WIDE, warning_lines

#: What is shown of every budget, by heading.
SHOWN = ("accuracy", "vs dense", "tokens", "FLOPs / dense", "time / dense")


def calibration_table(found: Calibration, width: int = WIDE) -> Table:
    """Every budget that was tried, and whether it holds.

    Args:
        found: the calibration.
        width: of the terminal; narrow ones get the interval of what has to hold alone.
    """
    own = forms(found.goal, found.tried.values())
    columns = [
        replace(
            column,
            form=own[column.heading],
            brief=width < MIDDLE and column.heading != found.goal.heading,
        )
        for column in RESULTS
        if column.heading in SHOWN
    ]
    table = Table(title=f"to hold: {found.goal.words}", title_justify="left")
    table.add_column("keep", justify="right", no_wrap=True)
    for column in columns:
        table.add_column(column.title.replace(" ", "\n"), justify="right", no_wrap=True)
    table.add_column("holds", no_wrap=True)
    for number, row in found.tried.items():
        cells = [column.shown(row, brief=column.brief) for column in columns]
        style = "bold" if number == found.chosen else ""
        holds = "yes" if found.goal.holds(row) else "no"
        table.add_row(found.budgets.shown(number), *cells, holds, style=style)
    return table


def cautions(found: Calibration) -> Sequence[Text]:
    """What to beware of, in words: of every budget, and of what was to hold."""
    rows: list[Result] = []
    for row in found.tried.values():
        own = found.goal.caution(row)
        rows.append(replace(row, warnings=(*row.warnings, own)) if own else row)
    return warning_lines(rows)


def conclusion(found: Calibration) -> str:
    """What was found, in one or two sentences."""
    which = "smallest" if found.goal.smallest else "largest"
    if found.chosen is None:
        nearest = max(found.tried) if found.goal.smallest else min(found.tried)
        return f"No keep holds, not even {found.budgets.shown(nearest)}: {found.goal.words}."
    row = found.tried[found.chosen]
    shown = written(found.goal, found.tried.values(), row)
    hidden = f"; down to {100 * lowest(row):+.1f} can't be excluded" if row.unseen else ""
    return (
        f"The {which} keep that holds is {found.budgets.shown(found.chosen)}: accuracy "
        f"{shown.points[0]} points against dense (95 % interval {shown.points[1]} to "
        f"{shown.points[2]}{hidden}), FLOPs {shown.flops} and time {shown.time[0]} of dense, on "
        f"{counted(len(row.run.right), 'sample')}."
    )
