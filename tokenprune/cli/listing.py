"""`tokenprune list`: the strategies that are installed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tokenprune.cli.options import examples
from tokenprune.errors.visible import visible
from tokenprune.interface.sites import STAGES, Stage

if TYPE_CHECKING:
    from tokenprune.interface.strategy import PruningStrategy
    from tokenprune.plugins.matrix import Fit

EXAMPLES = examples(
    "tokenprune list",
    "tokenprune list --json",
    "tokenprune list --matrix",
    "tokenprune list --signals",
)

LETTERS = "E inside the encoder, P before the LLM, D inside the LLM, - nowhere."


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
    matrix: Annotated[
        bool,
        typer.Option("--matrix", help="Which strategy runs on which model family, or why not."),
    ] = False,
    signals: Annotated[
        bool,
        typer.Option("--signals", help="What strategies can ask of a model, and who does."),
    ] = False,
) -> None:
    """List the strategies, where each can act and what it needs."""
    from tokenprune.plugins.host import host

    if matrix and signals:
        raise typer.BadParameter("ask for one of --matrix and --signals")
    if matrix:
        _matrix(as_json)
        return
    if signals:
        _signals(as_json)
        return
    kinds = sorted(host().strategies.values(), key=lambda kind: kind.name)
    if as_json:
        typer.echo(json.dumps([facts(kind) for kind in kinds], indent=2))
        return
    table = Table("strategy", "at", "trained", "what it does")
    for one in map(facts, kinds):
        trained = "" if one["training_free"] else "yes"
        name, summary = Text(visible(one["name"]), "bold"), Text(visible(one["summary"]))
        table.add_row(name, _letters(one["stages"]), trained, summary)
    console = Console()
    console.print(table)
    console.print(LETTERS)
    console.print("Trained ones need a checkpoint; `tokenprune describe NAME` says more.")


def facts(kind: type[PruningStrategy[Any]]) -> dict[str, Any]:
    """A strategy as plain data."""
    from tokenprune.interface.strategy import places
    from tokenprune.interface.trainable import TrainableStrategy

    return {
        "name": kind.name,
        "stages": list(places(kind)),
        "training_free": not issubclass(kind, TrainableStrategy),
        "static_length": kind.length == "planned",
        "summary": kind.about.summary,
        "paper": kind.about.paper,
        "params": list(kind.Params.model_fields),
    }


def _matrix(as_json: bool) -> None:
    from tokenprune.plugins.matrix import alike, footnotes
    from tokenprune.plugins.matrix import matrix as strategies_by_family

    rows = strategies_by_family()
    if as_json:
        typer.echo(json.dumps([one.data() for row in rows for one in row], indent=2))
        return
    notes = footnotes(rows)
    console = Console()
    columns = [_column(cells, notes) for cells in alike(rows)]
    for table in _tables([row[0].strategy for row in rows], columns, console):
        console.print(table)
    console.print(LETTERS)
    for number, note in enumerate(notes, start=1):
        console.print(f"[dim]{number}[/] {escape(visible(note))}", highlight=False)


def _signals(as_json: bool) -> None:
    from tokenprune.plugins.signals import known_signals

    known = known_signals()
    if as_json:
        typer.echo(json.dumps([one.data() for one in known], indent=2))
        return
    table = Table()
    table.add_column("signal", no_wrap=True)
    for heading in ("exists at", "what it is", "asked for by"):
        table.add_column(heading)
    for one in known:
        stages = ", ".join(one.signal.stages) or "nowhere"
        what = escape(visible(f"{one.shape} {one.what}"))
        name, users = (
            Text(visible(str(one.signal)), "bold"),
            visible(", ".join(one.strategies) or "-"),
        )
        table.add_row(name, stages, what, Text(users))
    Console().print(table)


def _column(cells: Sequence[Fit], notes: Sequence[str]) -> list[str]:
    """A family's name, and for every strategy where it runs and the numbers of the notes."""
    found = [cells[0].family.name.replace(" + ", " +\n").replace(", ", ",\n")]
    for one in cells:
        marks = " ".join(f"[dim]{notes.index(note) + 1}[/]" for note in one.notes)
        found.append(f"{_letters(one.runs)} {marks}".strip())
    return found


def _tables(
    strategies: Sequence[str], columns: Sequence[Sequence[str]], console: Console
) -> Iterator[Table]:
    """The columns in as many tables as the console's width takes, each with all strategies."""
    names = _width(_table(strategies, []), console)
    shown: list[Sequence[str]] = []
    taken = names
    for column in columns:
        more = _width(_table(strategies, [column]), console) - names
        if shown and taken + more > console.width:
            yield _table(strategies, shown)
            shown, taken = [], names
        shown.append(column)
        taken += more
    if shown:
        yield _table(strategies, shown)


def _width(table: Table, console: Console) -> int:
    """Characters that a table takes where nothing bounds it."""
    return console.measure(table, options=console.options.update(max_width=10_000)).maximum


def _table(strategies: Sequence[str], columns: Sequence[Sequence[str]]) -> Table:
    table = Table("strategy", padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column[0], no_wrap=True)
    for number, name in enumerate(strategies, start=1):
        table.add_row(Text(visible(name), "bold"), *(column[number] for column in columns))
    return table


def _letters(runs: Sequence[Stage]) -> str:
    return " ".join(stage[0].upper() for stage in STAGES if stage in runs) or "-"
