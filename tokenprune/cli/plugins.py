"""`tokenprune plugins`: what is installed, what it brings and what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tokenprune.cli.options import examples
from tokenprune.errors.visible import visible

EXAMPLES = examples("tokenprune plugins", "tokenprune plugins --json")


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """List the plugins and their problems; with a problem the exit code is 1."""
    from tokenprune.plugins.host import host

    if as_json:
        plugins = [asdict(info) for info in host().infos()]
        problems = [asdict(problem) for problem in host().problems]
        typer.echo(json.dumps({"plugins": plugins, "problems": problems}, indent=2))
    else:
        console = Console()
        console.print(plugin_table())
        console.print(problem_lines())
    if host().problems:
        raise typer.Exit(1)


def plugin_table() -> Table:
    """Plugins that work, a row for each kind of things that one brought."""
    from tokenprune.plugins.host import host

    table = Table("plugin", "of", "brings", "by name")
    for info in host().infos():
        source = f"{info.distribution} {info.version}"
        rows = [(kind, ", ".join(names)) for kind, names in info.brought.items()] or [("-", "-")]
        for number, row in enumerate(rows):
            cells = (*(("", "") if number else (info.name, source)), *row)
            table.add_row(*(Text(visible(cell)) for cell in cells))
        table.add_section()
    return table


def problem_lines() -> RenderableType:
    """One line a problem."""
    from tokenprune.plugins.host import host

    problems = host().problems
    if not problems:
        return Text("No plugin has a problem.", style="green")
    return Text("\n".join(visible(str(problem)) for problem in problems), style="red")
