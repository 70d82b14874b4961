"""`tokenprune verify`: the invariants of a plan on one's own model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenprune.cli.consoles import PLAIN, progress_bar, wide_console
from tokenprune.cli.options import Device, Dtype, Overrides, Weights, examples

if TYPE_CHECKING:
    from tokenprune.lab.verify import Verification

EXAMPLES = examples(
    "tokenprune verify --plan plan.yaml",
    "tokenprune verify path/to/llava --plan plan.yaml --images photos",
    "tokenprune verify path/to/llava --plan plan.yaml --device cuda --json > verified.json",
    "tokenprune verify timm:NAME --weights vit.safetensors --plan plan.yaml",
)

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="Model folder, timm:NAME or reference, which is the default: the bundled model.",
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(help="Folder of pictures; default: held-out pictures, of other models made ones."),
]
Questions = Annotated[
    list[str] | None,
    typer.Option("--question", help="What the model is asked; default: three of several lengths."),
]
NewTokens = Annotated[int, typer.Option(min=1, help="Tokens generated per prompt.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def command(
    plan: Annotated[Path, typer.Option(help="Plan file.")],
    model: Model = None,
    images: Images = None,
    question: Questions = None,
    new_tokens: NewTokens = 4,
    json_: Json = False,
    overrides: Overrides = None,
    weights: Weights = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Check a plan on a model: does pruning change what it must, and nothing else?

    Every row is measured on the model's own weights, against the model without the plan. On the
    CPU, and without --dtype, most rows run in float64. The exit code is 1 if a row fails.
    """
    from tokenprune.lab.models import load_model, load_options, model_place
    from tokenprune.lab.verify import samples_for, verify
    from tokenprune.plan import load_plan

    loaded_plan = load_plan(plan, overrides=overrides or ())
    options = load_options(device, dtype, weights)
    loaded = load_model(model_place(model, "image", "MODEL"), options)
    samples, source = samples_for(loaded, images, question or (), plan=loaded_plan)
    widen = dtype is None and options.device.type == "cpu"
    with progress_bar() as tell:
        found = verify(
            loaded,
            loaded_plan,
            samples,
            source=source,
            new_tokens=new_tokens,
            widen=widen,
            tell=tell,
        )
    if json_:
        typer.echo(json.dumps(found.data(), indent=1, allow_nan=False))
    else:
        _show(found)
    if found.failed:
        raise typer.Exit(1)


def _show(found: Verification) -> None:
    from tokenprune.lab.verify import verdict, verification_table

    console = wide_console(PLAIN)
    console.print(verification_table(found))
    packages = found.environment["packages"].items()
    versions = ", ".join(f"{name} {version}" for name, version in packages)
    console.print(f"pictures: {found.inputs['pictures']}; {versions}", highlight=False)
    console.print(verdict(found), highlight=False)
