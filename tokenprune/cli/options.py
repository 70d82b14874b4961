"""Options that several commands have, and the examples at the end of their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Weights = Annotated[Path | None, typer.Option(help="Checkpoint for timm:NAME.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a plan's key.")
]
ModelOrClips = Annotated[
    str | None,
    typer.Option(
        help="Model folder, timm:NAME or reference, which is the default: the bundled model; "
        "with --frames, the one for clips."
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Seed = Annotated[int, typer.Option(min=0)]
Force = Annotated[bool, typer.Option(help="Replace a record that is there already.")]
CheckData = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Pictures or videos to open before anything runs, spread evenly; 0: none. Default: "
        "all, but at most 1000 pictures or 100 videos.",
    ),
]


def examples(*lines: str) -> str:
    """An epilog with one command a line; typer keeps line breaks only between paragraphs."""
    return "\n\n".join(("Examples:", *(f"  [bold]{line}[/]" for line in lines)))
