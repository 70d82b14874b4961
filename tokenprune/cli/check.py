"""`tokenprune check`: a strategy against the contract of all strategies."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tokenprune.cli.consoles import line
from tokenprune.cli.options import Seed, examples
from tokenprune.errors.visible import visible

if TYPE_CHECKING:
    from tokenprune.testing import Report

EXAMPLES = examples(
    "tokenprune check evoprune",
    "tokenprune check my_strategy --set order=1",
    "tokenprune check my_strategy --json > checked.json",
)
STYLES = {"pass": "green", "fail": "bold red", "does not apply": "dim"}


def command(
    name: Annotated[str, typer.Argument(help="A strategy, see `tokenprune list`.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Give a parameter, as under `params`."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    seed: Seed = 0,
) -> None:
    """Hold a strategy to what every strategy must fulfil.

    It is asked about made-up tokens of many counts, grids and dtypes, and run inside tiny models
    with random weights. The exit code is 1 if a row fails. `tokenprune verify` checks a plan on a
    model of your own.
    """
    from tokenprune.plan.overrides import overridden
    from tokenprune.plugins.strategies import strategy_class
    from tokenprune.testing import check_strategy

    params = overridden({}, overrides or ())
    found = check_strategy(strategy_class(name, where="check"), params, seed=seed)
    if json_:
        typer.echo(json.dumps(found.data(), indent=1))
    else:
        _show(found)
    if found.failed:
        raise typer.Exit(1)


def _show(found: Report) -> None:
    """A row for each demand, a column for each stage, and the faults below."""
    stages = dict.fromkeys(row.at for row in found.rows)
    table = Table("row", "what must hold", *stages, title=found.name, title_justify="left")
    for key in dict.fromkeys(row.key for row in found.rows):
        rows = [found.row(key, at) for at in stages]
        results = (
            f"[{STYLES[row.status]}]{row.status if row.status != 'does not apply' else '-'}[/]"
            for row in rows
        )
        table.add_row(key, escape(visible(rows[0].demand)), *results)
    console = Console()
    console.print(table)
    notes: dict[str, dict[str, None]] = {}
    for row in found.rows:
        if row.status == "does not apply":
            notes.setdefault(row.note, {})[row.key] = None
    for note, keys in notes.items():
        console.print(line(f"{', '.join(keys)}: {note}"), style="dim")
    console.print(line(str(found)))
