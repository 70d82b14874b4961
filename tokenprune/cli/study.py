"""`tokenprune compare STUDY.yaml`: running a study, or saying what it would run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenprune.cli.progress import progress_bar
from tokenprune.errors import DataError

if TYPE_CHECKING:
    from tokenprune.lab.studies import Finished, Study
    from tokenprune.lab.studies.calibrate import Estimate
    from tokenprune.lab.studies.summary import Group, Row

#: Options of `compare` that go with a study file; everything else stands in the file.
ALLOWED = {"study", "jobs", "dry_run", "runner", "reporter"}

_OPTIONS = "--jobs, --dry-run, --runner and --reporter"

#: Columns of narrower terminals would be cut off; output that is no terminal gets as many.
WIDE = 120


def refuse_options(ctx: typer.Context) -> None:
    """A study file says everything itself.

    Raises:
        DataError: an option was given that the file should hold.
    """
    for name in ctx.params:
        source = ctx.get_parameter_source(name)
        if name not in ALLOWED and source is not None and source.name == "COMMANDLINE":
            raise DataError(
                "a study file says this itself.",
                where=f"--{name.replace('_', '-')}",
                remedy=f"Write it into the file; only {_OPTIONS} go with a study.",
            )


def run_command(
    path: Path, *, jobs: int | None, dry_run: bool, runner: str | None, reporters: Sequence[str]
) -> None:
    """Run a study file and print what its records say.

    The exit code is 1 if a cell failed, or was left to another run.

    Args:
        path: the study file.
        jobs: processes; default: one a GPU.
        dry_run: print the cells and what they would take instead.
        runner: where cells run, as `NAME:KEY=VALUE`; default: processes of this machine.
        reporters: who is told, in the same form.
    """
    from tokenprune.lab.studies import load_study, run_study
    from tokenprune.lab.studies.plugs import make_reporter, make_runner, named

    study = load_study(path)
    place, options = named(runner or "local")
    if jobs is not None and place == "local":
        options = {"jobs": str(jobs), **options}
    elif jobs is not None:
        raise DataError(
            f"the runner '{place}' has no jobs.", where="--jobs", remedy="See its own options."
        )
    chosen = make_runner(place, options)
    told = [make_reporter(*named(reporter)) for reporter in reporters]
    console = _console()
    if dry_run:
        _print_estimates(console, study, getattr(chosen, "processes", None))
        return
    with progress_bar() as tell:
        done = run_study(study, chosen, tell, told)
    _print_results(console, study, done)
    wrong = any(record.result.get("failures") for record in done.records)
    if done.failed or done.elsewhere or wrong:
        raise typer.Exit(1)


def group_tables(groups: Sequence[Group]) -> list[Table]:
    """A table of results a group, and one of what to beware of."""
    found = []
    for group in groups:
        table = Table(title=f"{group.model}, {group.task}", title_justify="left")
        table.add_column("plan")
        for heading in ("accuracy", "95 % interval", "vs dense", "vs random", "tokens"):
            table.add_column(heading, justify="right")
        for heading in ("FLOPs", "time"):
            table.add_column(f"{heading} / dense", justify="right")
        for row in group.rows:
            # names are data: as Text, no markup of theirs is read
            table.add_row(Text(row.name), *_numbers(row))
        found.append(table)
    return found


def print_warnings(console: Console, groups: Sequence[Group]) -> None:
    """What to beware of, in words."""
    from tokenprune.lab.report.warnings import warnings

    for group in groups:
        for names, warning in warnings(group):
            console.print(Text(f"{names}: {warning}", style="yellow"))


def _numbers(row: Row) -> list[str]:
    return [
        f"{100 * row.accuracy.value:.1f} %",
        f"{100 * row.accuracy.low:.1f} to {100 * row.accuracy.high:.1f}",
        "" if row.difference is None else f"{100 * row.difference.value:+.1f}",
        "" if row.versus_random is None else f"{100 * row.versus_random.value:+.1f}",
        f"{row.tokens:.1f}",
        f"{row.flops:.2f}",
        f"{row.time.value:.2f}",
    ]


def _print_results(console: Console, study: Study, done: Finished) -> None:
    from tokenprune.lab.studies.summary import summarise

    groups = summarise(done.records, study.seed)
    for table in group_tables(groups):
        console.print(table)
    print_warnings(console, groups)
    for key, what in done.damaged.items():
        console.print(Text(f"damaged, so run again: {key}.json: {what}", style="yellow"))
    for label in done.elsewhere:
        console.print(Text(f"another run is working on it: {label}", style="yellow"))
    for label, reason in done.failed.items():
        console.print(Text(f"failed: {label}: {reason}", style="bold red"))
    cells = len(done.records)
    console.print(
        f"{len(done.ran)} cells ran now, {cells} are recorded: {study.out}", highlight=False
    )
    console.print(f"report: tokenprune report {study.out}", highlight=False)


def _print_estimates(console: Console, study: Study, processes: int | None) -> None:
    """Cells and their times; how many a cluster runs at once isn't known here."""
    from tokenprune.lab.studies.calibrate import estimate

    with progress_bar() as tell:
        found = estimate(study, tell)
    console.print(_estimates(found))
    waiting = sum(one.seconds for one in found if not one.recorded)
    recorded = sum(one.recorded for one in found)
    shared = f"with {processes} at once" if processes else "if run one after another"
    console.print(
        f"{len(found)} cells, {recorded} of them recorded; about "
        f"{_duration(waiting / (processes or 1))} left {shared}, from one batch a cell",
        highlight=False,
    )


def _estimates(found: Sequence[Estimate]) -> Table:
    table = Table("plan", "task", "model", "samples", "about", "state")
    for one in found:
        cell = one.cell
        names: list[Any] = [Text(cell.name), Text(cell.task.title), Text(cell.model.shown)]
        state = "recorded" if one.recorded else "to run"
        table.add_row(*names, str(one.samples), _duration(one.seconds), state)
    return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, WIDE))
