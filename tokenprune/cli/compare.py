"""`tokenprune compare`: what plans cost and keep, on a model that sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tokenprune.cli.examples import examples

if TYPE_CHECKING:
    from tokenprune.compare.measure import Progress as Tell
    from tokenprune.plan import Plan

EXAMPLES = examples(
    "tokenprune compare",
    "tokenprune compare --keep 64 16 --limit 600 --by-type",
    "tokenprune compare --plans a.yaml b.yaml --model path/to/llava",
    "tokenprune compare --model timm:NAME --weights vit.safetensors --images DIR --labels FILE.csv",
)


def command(
    plans: Annotated[
        list[Path] | None,
        typer.Option(help="Plan files; default: every training-free strategy."),
    ] = None,
    keep: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Tokens per image; default: three budgets, for timm: four."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model folder or timm:NAME; default: the bundled reference model."),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Checkpoint for timm:NAME.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of pictures for timm:NAME.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV: file,class index; with a header.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many samples.")] = None,
    split: Annotated[str, typer.Option(help="Of the pictures: first, second or all.")] = "all",
    positions: Annotated[
        str, typer.Option(help="Position ids in the LLM: original, compact or both.")
    ] = "both",
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens generated per question.")] = 2,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path, typer.Option(help="JSON record to write.")] = Path("comparison.json"),
    answers: Annotated[bool, typer.Option(help="Single answers into the record.")] = False,
    by_type: Annotated[bool, typer.Option(help="Also accuracies by question type.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
) -> None:
    """Compare plans with each other and with dense: accuracy, tokens, FLOPs and time by stage.

    Without any option: every training-free strategy at three budgets on the reference model.
    """
    from tokenprune import compare
    from tokenprune.compare.record import check_writable
    from tokenprune.loading import load_model, load_options
    from tokenprune.reference import reference_model_path

    check_writable(out)
    settings = compare.Settings(
        plans=_read(plans or ()),
        keeps=keep or (),
        limit=limit,
        batch_size=batch_size,
        seed=seed,
        positions=positions,
        new_tokens=new_tokens,
        split=split,
    )
    options = load_options(device, dtype, weights)
    loaded = load_model(model or str(reference_model_path()), options)
    with _progress() as tell:
        found = compare.compare(
            loaded, settings, options, images=images, labels=labels, progress=tell
        )
    compare.write_record(found, out, answers=answers)
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, compare.WIDE))
    for part in compare.tables(found, console.width, types=by_type):
        console.print(part)
    console.print(f"record: {out}", highlight=False)
    if found.failures:
        raise typer.Exit(1)


def _read(plans: list[Path] | tuple[()]) -> list[tuple[str, Plan]]:
    from tokenprune.plan import load_plan

    return [(path.stem, load_plan(path)) for path in plans]


@contextmanager
def _progress() -> Iterator[Tell]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (BarColumn(), MofNCompleteColumn(), Remaining(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total, label: progress.update(
            task, completed=done, total=total, description=label
        )
