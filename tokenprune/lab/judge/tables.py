"""Results as tables: for terminals, as Markdown and as CSV, all from the same columns."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from tokenprune.errors.visible import visible
from tokenprune.lab.judge.breaking import broken
from tokenprune.lab.judge.columns import (
    MORE,
    RESULTS,
    Column,
    all_columns,
    found_columns,
    stage_columns,
    token_columns,
)
from tokenprune.lab.judge.planned import PLANNED, Planned, places_of
from tokenprune.lab.judge.result import Result
from tokenprune.lab.judge.warnings import gathered
from tokenprune.lab.measure.entries import Entry

#: Narrower terminals get the columns in two tables, and still narrower ones in three.
WIDE = 200
MIDDLE = 136
PARTS = {"answers": "answers", "size": "tokens and FLOPs", "time": "time"}

Parts = tuple[str, ...]

#: Spreadsheets take cells that begin so as formulas.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Line:
    """One line of a file: a result, or why there is none.

    Attributes:
        about: model, task and name of the plan.
        planned: the plan.
        result: None for cells that failed.
        reason: why it failed.
    """

    about: tuple[str, str, str]
    planned: Planned
    result: Result | None = None
    reason: str = ""

    @property
    def status(self) -> str:
        """Of its cell."""
        return "failed" if self.result is None else "done"

    @property
    def beware(self) -> str:
        """What to beware of, or why there is no result."""
        return self.reason if self.result is None else "; ".join(self.result.warnings)


def terminal_tables(title: str, results: Sequence[Result], width: int) -> list[Table]:
    """The results as one table, or split by columns where the terminal is narrow.

    Args:
        title: what the results are of.
        results: the rows.
        width: of the terminal.
    """
    columns = [*token_columns(results), *stage_columns(results), *RESULTS]
    shown = []
    for parts in _split(width):
        words = ", ".join(PARTS[part] for part in parts)
        part_title = title if len(parts) == len(PARTS) else f"{title}: {words}"
        mine = [column for part in parts for column in columns if column.part == part]
        shown.append(column_table(part_title, results, mine))
    return shown


def column_table(title: str, results: Sequence[Result], columns: Sequence[Column]) -> Table:
    """Names, budgets and these columns as a table for terminals, with a rule between budgets."""
    # the title must not be broken where the columns are narrower
    table = Table(
        title=Text(visible(title), "bold"), title_justify="left", min_width=min(len(title), 72)
    )
    table.add_column("plan", overflow="fold")
    table.add_column("keep")
    for column in columns:
        # words below each other, because numbers are narrow and don't break
        heading = column.title.replace(" ", "\n")
        table.add_column(heading, justify="right", no_wrap=not column.wraps)
    before = ""
    for row in results:
        budget = row.run.entry.peers
        if before not in (budget, ""):
            table.add_section()
        before = budget
        cells = [column.shown(row, brief=column.brief) for column in columns]
        table.add_row(_name(row), row.keep, *cells)
    return table


def warning_lines(results: Sequence[Result]) -> list[Text]:
    """What to beware of, in words."""
    return [Text(visible(f"{names}: {what}"), style="yellow") for names, what in gathered(results)]


def harmless(cell: str) -> str:
    """A cell of a file for spreadsheets: no formula and no control character comes out of data.

    Numbers stay numbers, negative ones too.
    """
    cell = visible(cell)
    return f"'{cell}" if cell.startswith(FORMULA) and not _number(cell) else cell


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def csv_table(lines: Sequence[Line]) -> str:
    """One line a result or failure, with a header; all that is known."""
    columns = [*RESULTS, *MORE, *found_columns([one.result for one in lines if one.result])]
    headings = [heading for column in columns for heading in column.headings]
    places = places_of([line.planned for line in lines])
    about = ["model", "task", "plan", "status", *PLANNED, *map(harmless, places)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*about, *map(harmless, headings), "beware"])
    for line in lines:
        planned = ["" if cell is None else str(cell) for cell in line.planned.cells(places)]
        cells = [cell for column in columns for cell in column.cells(line.result)]
        before = [*map(harmless, line.about), line.status, *map(harmless, planned)]
        writer.writerow([*before, *cells, harmless(line.beware)])
    return buffer.getvalue()


def markdown_table(lines: Sequence[Line]) -> str:
    """The columns of terminals and a few more; what came from data stays text."""
    columns = all_columns([one.result for one in lines if one.result])
    headings = ["model", "task", "plan", "keep", *(column.title for column in columns), "beware"]
    found = ["| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
    for line in lines:
        keep = Entry(line.about[-1], line.planned.plan).keep
        cells = [column.shown(line.result) if line.result else "" for column in columns]
        beware = line.beware if line.result else f"failed: {line.reason}"
        found.append("| " + " | ".join(map(_text, (*line.about, keep, *cells, beware))) + " |")
    return "\n".join(found) + "\n"


def _split(width: int) -> list[Parts]:
    if width >= WIDE:
        return [tuple(PARTS)]
    if width >= MIDDLE:
        return [("answers",), ("size", "time")]
    return [(part,) for part in PARTS]


def _name(row: Result) -> Text:
    """Name and position ids; names are data: as `Text`, no markup of theirs is read."""
    name = row.name if row.positions == "original" else f"{row.name}, {row.positions}"
    return Text(broken(visible(name)))


def _text(cell: str) -> str:
    """No tag, link, image or new cell comes out of data."""
    # a space behind it makes no tag of "<", and keeps "< 0.001" readable
    plain = html.escape(visible(" ".join(cell.split())), quote=False).replace("&lt; ", "< ")
    for mark in "\\|[]`":
        plain = plain.replace(mark, f"\\{mark}")
    return plain
