"""All files of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenprune.lab.judge.tables import csv_table, markdown_table
from tokenprune.lab.measure.files import check_writable, write_text
from tokenprune.lab.report.families import COSTS
from tokenprune.lab.report.figures import FORMATS, write_figures
from tokenprune.lab.report.folder import Results
from tokenprune.lab.report.page import html
from tokenprune.lab.report.tidy import TIDY, write_tidy
from tokenprune.lab.studies.summary import Group, lines, summarise

FIGURES = "figures"


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        files: page, tables and figures.
        groups: what they show.
        missing: why a file isn't there that was asked for; empty if all are.
        older: files of an earlier report that stand beside these and weren't written anew.
    """

    files: tuple[Path, ...]
    groups: tuple[Group, ...]
    missing: str = ""
    older: tuple[Path, ...] = ()


def write_report(
    results: Results, page: Path, *, figures: bool = True, tidy: bool = False
) -> Written:
    """Write the page, `results.md` and `results.csv` beside it, and `figures/`.

    Args:
        results: of a folder.
        page: the HTML file.
        figures: whether figures are drawn, too.
        tidy: also `tidy.csv` and, where pyarrow is installed, `tidy.parquet`.

    Raises:
        DataError: a file can't be written.
        BackendUnavailableError: Jinja2 or matplotlib isn't installed.
    """
    check_writable(page)
    groups = summarise(results.records)
    tables = {
        page: html(results, groups),
        page.with_name("results.md"): markdown_table(lines(groups)),
        page.with_name("results.csv"): csv_table(lines(groups)),
    }
    for path, text in tables.items():
        write_text(path, text)
    drawn = write_figures(groups, page.parent / FIGURES) if figures else []
    more, missing = write_tidy(lines(groups), page.parent) if tidy else ([], "")
    files = (*tables, *more, *drawn)
    return Written(files, tuple(groups), missing, _older(page.parent, files))


def _older(folder: Path, written: Sequence[Path]) -> tuple[Path, ...]:
    """What an earlier report left in a folder that this one didn't write, such as `tidy.csv`."""
    kinds = [f"*-{cost}.{ending}" for cost in COSTS for ending in FORMATS]
    figures = (path for kind in kinds for path in (folder / FIGURES).glob(kind))
    tables = (path for name in TIDY if (path := folder / name).exists())
    return tuple(path for path in (*tables, *sorted(figures)) if path not in written)
