"""`tokenprune doctor`: what is there to run on, and what is wrong."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table

from tokenprune.cli.options import examples
from tokenprune.errors import DependencyError
from tokenprune.interface.versions import LIBRARIES, outside, refuse_older, tested

EXAMPLES = examples("tokenprune doctor")


def command() -> None:
    """Show devices, versions, ops backends and why they run; with a problem the exit code is 1."""
    from tokenprune.cli.plugins import plugin_table, problem_lines
    from tokenprune.plugins.host import host

    console = Console()
    console.print(_environment())
    for device in devices():
        console.print(_ops(device))
    console.print(plugin_table())
    console.print(problem_lines())
    wrong = [*old_libraries(), *missing_parts()]
    for line in wrong:
        console.print(line, style="red", highlight=False)
    if wrong or host().problems:
        raise typer.Exit(1)


def devices() -> list[str]:
    """Devices that torch can use."""
    import torch

    return ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]


def old_libraries() -> list[str]:
    """Sentences about libraries that are older than every tested version."""
    found: list[str] = []
    for name in LIBRARIES:
        try:
            refuse_older(name)
        except DependencyError as error:
            found.append(str(error))
    return found


def missing_parts() -> list[str]:
    """Sentences about parts of this package that aren't there."""
    from tokenprune.reference import reference_model_path

    folder = reference_model_path()
    if list(folder.glob("*.safetensors")):
        return []
    return [f"The bundled reference model is missing: no weights in {folder}."]


def _environment() -> Table:
    from tokenprune.lab.measure.environment import describe_environment

    facts = describe_environment()
    table = Table.grid(padding=(0, 2))
    packages = facts.pop("packages")
    for name, value in {**facts, **packages}.items():
        untested = name in LIBRARIES and outside(name) is not None
        beside = f"[yellow]tested: {tested(name)}[/]" if untested else ""
        table.add_row(f"[dim]{name}[/]", str(value if value is not None else "none"), beside)
    return table


def _ops(device: str) -> Table:
    from tokenprune import ops

    table = Table("op", "backend", "why", title=f"selection ops on {device}", title_justify="left")
    for choice in ops.explain(device):
        table.add_row(choice.op, choice.backend, choice.reason)
    return table
