"""All files of a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenprune.lab.judge.tables import csv_table, markdown_table
from tokenprune.lab.measure.files import check_writable, write_text
from tokenprune.lab.report.figures import write_figures
from tokenprune.lab.report.folder import Results
from tokenprune.lab.report.page import html
from tokenprune.lab.report.tidy import write_tidy
from tokenprune.lab.studies.summary import Group, lines, summarise


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        files: page, tables and figures.
        groups: what they show.
        missing: why a file isn't there that was asked for; empty if all are.
    """

    files: tuple[Path, ...]
    groups: tuple[Group, ...]
    missing: str = ""


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
    drawn = write_figures(groups, page.parent / "figures") if figures else []
    more, missing = write_tidy(lines(groups), page.parent) if tidy else ([], "")
    return Written((*tables, *more, *drawn), tuple(groups), missing)
