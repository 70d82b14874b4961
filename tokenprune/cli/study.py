"""`tokenprune study`: running a study, or saying what it would run."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tokenprune.cli.consoles import Recent, line, progress_bar, stoppable, wide_console
from tokenprune.cli.options import CheckData, examples
from tokenprune.errors import DataError
from tokenprune.errors.words import counted

if TYPE_CHECKING:
    from tokenprune.lab.studies import Finished, Runner, Study
    from tokenprune.lab.studies.estimates import Estimate

#: Cells whose number is said before anything else (ours).
MANY = 100

EXAMPLES = examples(
    "tokenprune study study.yaml --dry-run",
    "tokenprune study study.yaml --jobs 2",
    "tokenprune study study.yaml --runner ray:address=auto,num_gpus=1 --reporter trackio",
)


def command(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY.yaml", help="Models, tasks and plans, as one file.")
    ],
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes of this machine; default: one a GPU.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option(help="Only the cells, and what they would take.")
    ] = False,
    runner: Annotated[
        str | None,
        typer.Option(help="Where cells run: local, or ray:address=HOST:PORT,num_gpus=1."),
    ] = None,
    reporter: Annotated[
        list[str] | None,
        typer.Option(help="Told how it goes: trackio, mlflow or wandb; also trackio:project=NAME."),
    ] = None,
    check_data: CheckData = None,
) -> None:
    """Run the cells of a study file, each recorded once: models, tasks and plans crossed.

    Cells that are recorded don't run again; see `tokenprune report`. The exit code is 1 if a cell
    failed, was left to another run, or can't run, since its plan doesn't fit its model.
    """
    from tokenprune.lab.studies import load_study, run_study
    from tokenprune.lab.studies.lines import LineReporter
    from tokenprune.lab.studies.plugs import make_reporter, named

    loaded = load_study(study)
    chosen = _runner(runner or "local", jobs)
    told = [make_reporter(*named(name)) for name in reporter or ()]
    console = wide_console()
    _say_how_many(loaded)
    if dry_run:
        if not _print_estimates(console, loaded, getattr(chosen, "processes", None), check_data):
            raise typer.Exit(1)
        return
    recent, errors = Recent(), Console(stderr=True, soft_wrap=True)
    lines = LineReporter(recent.lines.append if errors.is_terminal else _printing(errors))
    with progress_bar(recent) as tell, stoppable(tell, partial(_recorded, loaded)) as heard:
        done = run_study(loaded, chosen, heard, [lines, *told], check=check_data)
    _print_results(console, loaded, done)
    wrong = any(record.result.get("failures") for record in done.records)
    if done.failed or done.elsewhere or wrong:
        raise typer.Exit(1)


def _runner(text: str, jobs: int | None) -> Runner:
    """The runner that is written as `NAME:KEY=VALUE`; `--jobs` is an option of the local one."""
    from tokenprune.lab.studies.plugs import make_runner, named

    place, options = named(text)
    if jobs is not None and place != "local":
        raise DataError(
            f"the runner '{place}' has no jobs.", where="--jobs", remedy="See its own options."
        )
    return make_runner(place, options if jobs is None else {"jobs": str(jobs), **options})


def _printing(console: Console) -> Callable[[str], None]:
    """Prints lines as they come; names in them are no markup."""
    return lambda said: console.print(line(said))


def _say_how_many(study: Study) -> None:
    """Checking many cells takes a while, so their number comes first."""
    from tokenprune.lab.studies.load import cell_count

    count = cell_count(study)
    if count > MANY:
        models, tasks = counted(len(study.models), "model"), counted(len(study.tasks), "task")
        said = f"{count:,} cells: {models} x {tasks} x plans"
        Console(stderr=True, soft_wrap=True).print(line(said))


def _recorded(study: Study, done: int, total: int) -> str:
    """How much of a run that was interrupted is recorded."""
    are = "are" if total and done != 1 else "is"
    count = f"{done} of the {counted(total, 'cell')} of this run" if total else "nothing new"
    return f"{count} {are} recorded in {study.out}. The same command goes on with the others."


def _print_results(console: Console, study: Study, done: Finished) -> None:
    from tokenprune.lab.judge.tables import terminal_tables, warning_lines
    from tokenprune.lab.studies.lines import added
    from tokenprune.lab.studies.summary import summarise

    for group in summarise(done.records):
        for part in (
            *terminal_tables(group.title, group.rows, console.width),
            *warning_lines(group.rows),
        ):
            console.print(part)
    if done.added:
        console.print(line(added(done.added)))
    for key, what in done.damaged.items():
        console.print(line(f"damaged, so run again: {key}.json: {what}", "yellow"))
    for label in done.elsewhere:
        console.print(line(f"another run is working on it: {label}", "yellow"))
    for label, reason in done.failed.items():
        console.print(line(f"failed: {label}: {reason}", "bold red"))
    cells = len(done.records)
    ran = counted(len(done.ran), "cell")
    recorded = f"{cells:,} {'is' if cells == 1 else 'are'} recorded"
    console.print(line(f"{ran} ran now, {recorded}: {study.out}"))
    console.print(line(f"report: tokenprune report {shlex.quote(str(study.out))}"))


def _print_estimates(
    console: Console, study: Study, processes: int | None, check: int | None
) -> bool:
    """Cells and their times; how many a cluster runs at once isn't known here.

    Returns:
        Whether all of them can run.
    """
    from tokenprune.lab.measure.telling import duration
    from tokenprune.lab.studies.estimates import estimate
    from tokenprune.lab.studies.lines import added, older

    with progress_bar() as tell:
        found = estimate(study, tell, check=check)
    console.print(_estimates(found))
    extra = [one.cell.label for one in found if one.cell.added]
    if extra:
        console.print(line(added(extra)))
    unfit = [one.cell for one in found if one.cell.unfit]
    for cell in unfit:
        console.print(line(f"can't run: {cell.label}: {cell.unfit}", "bold red"))
    waiting = sum(one.seconds for one in found if not one.recorded)
    recorded = sum(one.recorded for one in found)
    shared = f"with {processes} at once" if processes else "if run one after another"
    outdated = sum(one.older for one in found)
    told = f", {older(outdated)}" if outdated else ""
    console.print(
        f"{counted(len(found), 'cell')}, {recorded} of them recorded{told}; about "
        f"{duration(waiting / (processes or 1))} left {shared}, from one batch a cell",
        highlight=False,
    )
    return not unfit


def _estimates(found: Sequence[Estimate]) -> Table:
    from tokenprune.lab.measure.telling import duration

    table = Table("plan", "task", "model", "samples", "about", "state")
    for one in found:
        cell = one.cell
        names: list[Any] = [line(cell.name), line(cell.task.title), line(cell.model.shown)]
        state = "can't run" if cell.unfit else "recorded" if one.recorded else "to run"
        state += ", added" if cell.added else ""
        table.add_row(*names, str(one.samples), duration(one.seconds), state)
    return table
