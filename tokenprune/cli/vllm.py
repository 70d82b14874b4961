"""`tokenprune vllm`: what a plan needs to be served by vLLM, without starting an engine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from tokenprune.cli.options import examples

if TYPE_CHECKING:
    from tokenprune.interface.serving import Server

EXAMPLES = examples(
    "tokenprune vllm check plan.yaml path/to/llava",
    "tokenprune vllm args plan.yaml path/to/llava",
)

app = typer.Typer(
    help="Serve a plan with vLLM: check it, and print the engine's options.",
    no_args_is_help=True,
    epilog=EXAMPLES,
)

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="Plan file.")]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Folder or hub name of a checkpoint, or reference: the bundled model.",
    ),
]


@app.command("args", epilog=EXAMPLES)
def arguments(plan: PlanFile, model: Model) -> None:
    """Print the options that serve a model with a plan, quoted for a shell."""
    typer.echo(shlex.join(_server().arguments(plan, _place(model))))


@app.command("check", epilog=EXAMPLES)
def check(plan: PlanFile, model: Model) -> None:
    """Print how many tokens a plan leaves of a picture, or why it can't be served."""
    table = Table("picture", "visual tokens", "with the plan", "of dense")
    for row in _server().check(plan, _place(model)):
        left = (
            ("refused", "") if row.left is None else (str(row.left), f"{row.left / row.dense:.0%}")
        )
        table.add_row(row.size, str(row.dense), *left)
    Console().print(table)


def _place(model: str) -> str:
    from tokenprune.lab.models import model_place

    return model_place(model, "image", "MODEL")


def _server() -> Server:
    from tokenprune.lab.kinds import SERVERS
    from tokenprune.plugins.host import host

    return host().things(SERVERS)["vllm"]
