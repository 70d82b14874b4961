"""`tokenprune list`: the strategies that are installed."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tokenprune.cli.examples import examples
from tokenprune.strategy import PruningStrategy

EXAMPLES = examples("tokenprune list", "tokenprune list --json")


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """List the strategies, where each can act and what it needs."""
    from tokenprune.plugins import host

    kinds = sorted(host().strategies.values(), key=lambda kind: kind.name)
    if as_json:
        typer.echo(json.dumps([facts(kind) for kind in kinds], indent=2))
        return
    table = Table("strategy", "acts at", "training-free", "what it does")
    for kind in kinds:
        free = "yes" if kind.training_free else "no, needs a checkpoint"
        table.add_row(f"[bold]{kind.name}[/]", ", ".join(kind.stages), free, kind.summary)
    Console().print(table)


def facts(kind: type[PruningStrategy[Any]]) -> dict[str, Any]:
    """A strategy as plain data."""
    return {
        "name": kind.name,
        "stages": list(kind.stages),
        "training_free": kind.training_free,
        "static_length": kind.static,
        "summary": kind.summary,
        "paper": kind.paper,
        "params": list(kind.Params.model_fields),
    }
