"""The results as a table for pandas and its like: a row a cell, a column a variable."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from importlib import util
from itertools import chain, count
from pathlib import Path
from typing import Any

from tokenprune.errors import DataError
from tokenprune.errors.installing import pip_install
from tokenprune.lab.judge.columns import MORE, RESULTS, Column, found_columns
from tokenprune.lab.judge.planned import PLANNED, places_of
from tokenprune.lab.judge.tables import Line, harmless
from tokenprune.lab.measure.files import write_text

#: The files of the table.
TIDY = ("tidy.csv", "tidy.parquet")

#: What stands in front of the plan's columns.
ABOUT = ("model", "task", "plan", "status")

#: How to get the library that Parquet needs.
REMEDY = pip_install("parquet")


def tidy(lines: Sequence[Line]) -> dict[str, list[Any]]:
    """Columns by name; None where a row has nothing.

    Names are of small letters, digits and underscores; only places of a grid stand as the study
    file has them, such as `stages.0.keep`. Of what would have one name, such as the lower end of
    the accuracy and that of a type of questions called `low`, the later ones are numbered from 2
    on. Shares are between 0 and 1.
    """
    columns = [*RESULTS, *MORE, *found_columns([one.result for one in lines if one.result])]
    places = places_of([line.planned for line in lines])
    measured = [plain(heading) for column in columns for heading in _headings(column)]
    names = _apart([*ABOUT, *map(plain, PLANNED), *places, *measured, "beware"])
    rows = [
        [
            *(*line.about, line.status, *line.planned.cells(places)),
            *(value for column in columns for value in column.values(line.result)),
            line.beware,
        ]
        for line in lines
    ]
    return {name: [row[at] for row in rows] for at, name in enumerate(names)}


def write_tidy(lines: Sequence[Line], folder: Path) -> tuple[list[Path], str]:
    """Write `tidy.csv`, and `tidy.parquet` where pyarrow is installed.

    Args:
        lines: of the report.
        folder: where to.

    Returns:
        What was written, and why something wasn't, or nothing.

    Raises:
        DataError: a file can't be written.
    """
    plain_text, columnar = (folder / name for name in TIDY)
    table = tidy(lines)
    text, rows = io.StringIO(), zip(*table.values(), strict=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(map(_cell, row) for row in rows)
    write_text(plain_text, text.getvalue())
    if util.find_spec("pyarrow") is None:
        return [plain_text], f"{columnar.name} needs pyarrow: {REMEDY}"
    return [plain_text, _parquet(table, columnar)], ""


def _cell(value: Any) -> Any:
    """A cell of the file: nothing is empty, and no text is a formula of a spreadsheet."""
    return "" if value is None else harmless(value) if isinstance(value, str) else value


def plain(heading: str) -> str:
    """A heading as a name: `FLOPs / dense` as `flops_dense`; letters of any script stay."""
    return re.sub(r"[\W_]+", "_", heading.lower()).strip("_")


def _apart(names: Sequence[str]) -> list[str]:
    """Names of columns without repetition: a later `x` becomes `x_2`, then `x_3`."""
    found: dict[str, None] = {}
    for name in names:
        numbered = (f"{name}_{number}" for number in count(2))
        found[next(one for one in chain((name,), numbered) if one not in found)] = None
    return list(found)


def _headings(column: Column) -> list[str]:
    """As in results.csv, but that the ends of an interval always say of what they are."""
    return [
        f"{column.heading} {heading}" if heading in ("low", "high") else heading
        for heading in column.headings
    ]


def _parquet(table: dict[str, list[Any]], path: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    arrays = {name: pyarrow.array(_alike(values)) for name, values in table.items()}
    try:
        parquet.write_table(pyarrow.table(arrays), path)
    except OSError as error:
        raise DataError(f"the table can't be written ({error}).", where=str(path)) from error
    return path


def _alike(values: list[Any]) -> list[Any]:
    """A column has one type: numbers, or else texts."""
    given = [value for value in values if value is not None]
    if any(isinstance(value, str) for value in given):
        return [None if value is None else str(value) for value in values]
    if any(isinstance(value, float) for value in given):
        return [None if value is None else float(value) for value in values]
    return values
