"""`tokenprune report`: a study's records as a page, tables and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tokenprune.cli.consoles import line
from tokenprune.cli.options import examples

EXAMPLES = examples(
    "tokenprune report records",
    "tokenprune report records --tidy --no-figures",
    "tokenprune report records --out shared/report.html --no-figures",
)
#: Files of an earlier report that are named.
NAMED = 3

#: What is the matter with other records that are left out.
OTHER = "recorded with other settings, other packages or on another machine"


def command(
    folder: Annotated[Path, typer.Argument(help="Folder of a study's records: its 'out'.")],
    out: Annotated[
        Path | None, typer.Option(help="The page; default: report.html in the folder.")
    ] = None,
    figures: Annotated[bool, typer.Option(help="Also figures as PNG, SVG and PDF.")] = True,
    tidy: Annotated[
        bool,
        typer.Option("--tidy", help="Also tidy.csv and tidy.parquet, for pandas and its like."),
    ] = False,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Also records of older settings, versions and machines."),
    ] = False,
) -> None:
    """Write what a study's records hold: a page that needs nothing else, tables, and figures.

    Beside the page stand results.md, results.csv and the folder figures. With --tidy, a table with
    a row a cell and a column a variable stands there, too; Parquet needs pyarrow. Damaged records
    are left out and named, and so are failed cells; the exit code is 1 then.
    """
    from tokenprune.lab.report import read_results, write_report
    from tokenprune.lab.studies.older import OLDER

    results = read_results(folder, everything=everything)
    written = write_report(results, out or folder / "report.html", figures=figures, tidy=tidy)
    console = Console(soft_wrap=True)
    for file, what in results.damaged.items():
        console.print(line(f"damaged, so left out: {file}: {what}", "bold red"))
    for group in written.groups:
        for name, reason in group.failed.items():
            label = f"{name}, {group.task}, {group.model}"
            console.print(line(f"failed: {label}: {reason}", "bold red"))
    for count, what in ((results.older, OLDER), (results.others - results.older, OTHER)):
        if count:
            console.print(line(f"left out: {count} {what} (--all shows them)", "yellow"))
    if not results.records:
        console.print(line("there is no record yet", "yellow"))
    if results.waiting:
        console.print(line(f"cells without a record yet: {results.waiting}", "yellow"))
    for path in written.files:
        console.print(line(f"written: {path}"))
    if written.missing:
        console.print(line(f"not written: {written.missing}", "yellow"))
    if written.older:
        told = ", ".join(map(str, written.older[:NAMED]))
        more = f" and {len(written.older) - NAMED} more" if len(written.older) > NAMED else ""
        console.print(line(f"not written anew, so of an earlier report: {told}{more}", "yellow"))
    if results.damaged or any(group.failed for group in written.groups):
        raise typer.Exit(1)
