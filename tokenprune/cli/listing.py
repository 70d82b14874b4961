"""`tokenprune list`: the strategies that are installed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tokenprune.cli.examples import examples
from tokenprune.interface.strategy import PruningStrategy, places
from tokenprune.interface.tokens import STAGES, Stage
from tokenprune.interface.trainable import TrainableStrategy

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
    for kind in kinds:
        trained = "yes" if issubclass(kind, TrainableStrategy) else ""
        table.add_row(f"[bold]{kind.name}[/]", _letters(places(kind)), trained, kind.about.summary)
    console = Console()
    console.print(table)
    console.print(LETTERS)
    console.print("Trained ones need a checkpoint; `tokenprune describe NAME` says more.")


def facts(kind: type[PruningStrategy[Any]]) -> dict[str, Any]:
    """A strategy as plain data."""
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
    from tokenprune.plugins.matrix import footnotes
    from tokenprune.plugins.matrix import matrix as strategies_by_family

    rows = strategies_by_family()
    if as_json:
        typer.echo(json.dumps([one.data() for row in rows for one in row], indent=2))
        return
    notes = footnotes(rows)
    table = Table("strategy", padding=(0, 1, 0, 0))
    for one in rows[0] if rows else ():
        table.add_column(one.family.name.replace(" + ", " +\n"), no_wrap=True)
    for row in rows:
        marks = [" ".join(f"[dim]{notes.index(note) + 1}[/]" for note in one.notes) for one in row]
        cells = [
            f"{_letters(one.runs)} {mark}".strip() for one, mark in zip(row, marks, strict=True)
        ]
        table.add_row(f"[bold]{row[0].strategy}[/]", *cells)
    console = Console()
    console.print(table)
    console.print(LETTERS)
    for number, note in enumerate(notes, start=1):
        console.print(f"[dim]{number}[/] {note}", highlight=False)


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
        what = escape(f"{one.shape} {one.what}")
        table.add_row(f"[bold]{one.signal}[/]", stages, what, ", ".join(one.strategies) or "-")
    Console().print(table)


def _letters(runs: Sequence[Stage]) -> str:
    return " ".join(stage[0].upper() for stage in STAGES if stage in runs) or "-"
