"""`tokenprune plugins`: what is installed, what it brings and what is wrong with it."""

from __future__ import annotations

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tokenprune.cli.examples import examples

EXAMPLES = examples("tokenprune plugins")


def command() -> None:
    """List the plugins and their problems; with a problem the exit code is 1."""
    from tokenprune.plugins.host import host

    console = Console()
    console.print(plugin_table())
    console.print(problem_lines())
    if host().problems:
        raise typer.Exit(1)


def plugin_table() -> Table:
    """Plugins that work, and what each registered."""
    from tokenprune.plugins.host import host

    kinds = ("strategies", "adapters", "loaders", "metrics", "runners", "reporters")
    table = Table("plugin", "distribution", "version", *kinds)
    for info in host().infos():
        cells = [", ".join(getattr(info, kind)) or "-" for kind in kinds]
        table.add_row(info.name, info.distribution, info.version, *cells)
    return table


def problem_lines() -> RenderableType:
    """One line a problem."""
    from tokenprune.plugins.host import host

    problems = host().problems
    if not problems:
        return Text("No plugin has a problem.", style="green")
    return Text("\n".join(str(problem) for problem in problems), style="red")
