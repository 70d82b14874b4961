"""`tokenprune validate` and `tokenprune schema`: plan files without a model."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from tokenprune.cli.consoles import line
from tokenprune.cli.options import examples
from tokenprune.errors import TokenpruneError
from tokenprune.errors.visible import visible

if TYPE_CHECKING:
    from tokenprune.plan import Plan

VALIDATE_EXAMPLES = examples(
    "tokenprune validate plan.yaml", "tokenprune validate plan.yaml --set stages.0.keep=64"
)
SCHEMA_EXAMPLES = examples(
    "tokenprune schema > plan.schema.json", "tokenprune schema --study > study.schema.json"
)


def validate(
    plan: Annotated[Path, typer.Argument(help="A plan file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as stages.0.keep."),
    ] = None,
) -> None:
    """Check a plan and print it as it was understood, extended files and overrides included.

    A plan is refused too if a stage lacks what `attach` asks for on every model, such as a text
    tower or a checkpoint's file. Learned stages without weights can be trained, so they are named.
    """
    from tokenprune.engine.complete import check_complete
    from tokenprune.plan import dump_plan, load_plan, numbering

    loaded = load_plan(plan, overrides=overrides or ())
    try:
        untrained = check_complete(loaded)
    except TokenpruneError as error:
        error.where = ": ".join(filter(None, (str(plan), error.where)))
        raise
    typer.echo(dump_plan(loaded), nl=False)
    console = Console(stderr=True, soft_wrap=True)
    console.print(Text.assemble(("valid", "green"), f": {visible(str(plan))}"))
    for lacking in untrained:
        console.print(line(f"valid for training only: {lacking}", "yellow"))
    if loaded.stages:
        console.print(f"position ids of the survivors: {visible(str(numbering(loaded)))}")


def read_plans(paths: Sequence[Path]) -> list[tuple[str, Plan]]:
    """Plan files, each with the name that stands for it where the plan has none."""
    from tokenprune.plan import load_plan

    return list(zip(file_names(paths), map(load_plan, paths), strict=True))


def named_plans(paths: Sequence[Path]) -> list[tuple[str, Plan]]:
    """Plan files, each called as the plan says, or else as its file; of one name by both."""
    read = read_plans(paths)
    names = Counter(plan.name for _, plan in read)
    return [
        (f"{plan.name} ({file})" if names[plan.name] > 1 else plan.name, plan)
        if plan.name
        else (file, plan)
        for file, plan in read
    ]


def file_names(paths: Sequence[Path]) -> list[str]:
    """What plan files are called: by stem, and where that is another's too, with their folders.

    A file that is given twice, or once more with another ending, gets a number.
    """
    places = [(*Path(os.path.abspath(path)).parent.parts, path.stem) for path in paths]
    return [_file_name(places, number) for number in range(len(places))]


def _file_name(places: Sequence[tuple[str, ...]], number: int) -> str:
    own = places[number]
    for depth in range(1, len(own)):
        if sum(other[-depth:] == own[-depth:] for other in places) == 1:
            return "/".join(own[-depth:])
    again = places[: number + 1].count(own)
    return own[-1] if again == 1 else f"{own[-1]} ({again})"


def schema(
    study: Annotated[bool, typer.Option("--study", help="Of study files instead.")] = False,
) -> None:
    """Print the JSON Schema of plan files, with the parameters of every installed strategy."""
    if study:
        from tokenprune.lab.studies.schema import study_schema as data
    else:
        from tokenprune.plan import plan_schema as data
    typer.echo(json.dumps(data(), indent=2))
