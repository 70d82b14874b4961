"""`tokenprune compare`: what plans cost and keep, on a model that sees."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenprune.cli.consoles import line, notice, progress_bar, stoppable, wide_console
from tokenprune.cli.options import CheckData, Device, Dtype, Force, Seed, Weights, examples
from tokenprune.cli.plans import read_plans
from tokenprune.errors import DataError

if TYPE_CHECKING:
    from tokenprune.lab.compare import Comparison, Source

EXAMPLES = examples(
    "tokenprune compare",
    "tokenprune compare --task image",
    "tokenprune compare --all --keep 100 50 --limit 400 --by-type --jobs 2",
    "tokenprune compare --family decoder --keep 200 160",
    "tokenprune compare --match flops --keep 100",
    "tokenprune compare --task video --limit 40",
    "tokenprune compare --task image --keep 16 --probe all",
    "tokenprune compare --plans a.yaml b.yaml --model path/to/llava",
    "tokenprune compare --model path/to/llava --data asked.csv --images photos",
    "tokenprune compare --model path/to/qwen2-vl --data asked.jsonl --images clips --frames 8",
    "tokenprune compare --model timm:NAME --weights vit.safetensors --images DIR --labels FILE.csv",
    "tokenprune compare --model path/to/clip --images DIR --labels FILE.csv --classes NAMES.txt",
)

Plans = Annotated[
    list[Path] | None,
    typer.Option(help="Plan files; default: a dozen strategies, and those of other plugins."),
]
Keep = Annotated[
    list[int] | None,
    typer.Option(min=1, help="Tokens per image (frame); default: three or four budgets."),
]
TaskName = Annotated[
    str | None,
    typer.Option(
        help="Built-in questions: detail; image, quick and easier; or video, about clips. "
        "Default: detail; image with --model or --family learned."
    ),
]
Every = Annotated[bool, typer.Option("--all", help="Every strategy, not only a chosen dozen.")]
Family = Annotated[
    str | None,
    typer.Option(help="Strategies of one kind: encoder, pre_llm, decoder or learned."),
]
Match = Annotated[
    str,
    typer.Option(
        help="What budgets are equal in: tokens (mean over the LLM's layers), flops or time "
        "(solved); stage: each as its stage counts."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Model folder, timm:NAME or reference, which is the default: the task's bundled model."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Your questions about pictures (JSON lines or CSV) instead of built-in ones."
    ),
]
Frames = Annotated[
    int | None,
    typer.Option(min=1, help="With --data: it asks about videos; so many frames of each are seen."),
]
Images = Annotated[
    Path | None,
    typer.Option(
        help="Folder of pictures, for encoders; with --data, of those that it names: default: "
        "that of the file."
    ),
]
Labels = Annotated[Path | None, typer.Option(help="CSV: file,class index; with a header.")]
Classes = Annotated[
    Path | None, typer.Option(help="For dual encoders: names of the classes, one a line.")
]
Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", help="For dual encoders, with {} for a name; several are averaged."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many samples.")]
Split = Annotated[str, typer.Option(help="Of the pictures: first, second or all.")]
Positions = Annotated[str, typer.Option(help="Position ids in the LLM: original, compact or both.")]
BatchSize = Annotated[int, typer.Option(min=1)]
NewTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens generated per question; default: 2, with --data 32."),
]
Jobs = Annotated[
    int, typer.Option(min=1, help="Processes that share the plans and this one's threads.")
]
Probe = Annotated[
    list[str] | None,
    typer.Option(
        help="Also what can still be read of the encoder's information: all, or encoder, "
        "projector, llm:LAYER."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="JSON record to write; default: comparison.json, numbered where there is one."
    ),
]
Answers = Annotated[bool, typer.Option(help="Single answers into the record.")]
ByType = Annotated[bool, typer.Option(help="Also accuracies by question type.")]


def command(
    plans: Plans = None,
    keep: Keep = None,
    every: Every = False,
    family: Family = None,
    match: Match = "tokens",
    task: TaskName = None,
    data: Data = None,
    frames: Frames = None,
    model: Model = None,
    weights: Weights = None,
    images: Images = None,
    labels: Labels = None,
    classes: Classes = None,
    prompts: Prompts = None,
    limit: Limit = None,
    split: Split = "all",
    positions: Positions = "both",
    batch_size: BatchSize = 16,
    new_tokens: NewTokens = None,
    seed: Seed = 0,
    jobs: Jobs = 1,
    probe: Probe = None,
    out: Out = None,
    force: Force = False,
    answers: Answers = False,
    by_type: ByType = False,
    check_data: CheckData = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Compare plans with each other and with dense: accuracy, tokens, FLOPs and time by stage.

    Without any option: a dozen strategies at three budgets on the bundled detail model, with equal
    tokens in the mean over the LLM's layers; `--task image` asks the small model, which is quicker.
    Default rows without a random row at their places and budgets, or at as many tokens, get one
    beside them that keeps as many tokens as they left. With `--plans`, those plans are all rows.
    Study files run with `tokenprune study`.
    """
    from tokenprune.lab.compare import Settings, Source
    from tokenprune.lab.data.candidates import PROMPTS
    from tokenprune.lab.greedy import LONG, SHORT
    from tokenprune.lab.measure.files import record_path
    from tokenprune.lab.models import REFERENCE, load_options, model_place

    record = record_path(out, "comparison.json", force=force)
    task = _task(task, data, frames, family, own=model is not None and model != REFERENCE)
    generated = new_tokens or (SHORT if data is None else LONG)
    settings = Settings(
        plans=read_plans(plans or ()), keeps=keep or (), limit=limit, batch_size=batch_size,
        seed=seed, positions=positions, new_tokens=generated, split=split, task=task,
        jobs=jobs, probe=probe or (), every=every, family=family, match=match, check=check_data,
        frames=frames,
    )  # fmt: skip
    source = Source(
        model_place(model, task), load_options(device, dtype, weights), settings,
        images, labels, classes, tuple(prompts or PROMPTS), data,
    )  # fmt: skip
    _run(source, record, force, answers, by_type)


def _task(
    task: str | None, data: Path | None, frames: int | None, family: str | None, *, own: bool
) -> str:
    """Whose built-in questions, pictures and model are meant where options name no others."""
    if data is not None and task is not None:
        raise DataError(
            "questions are your own or built in.",
            where="--data and --task",
            remedy="Leave one of them away.",
        )
    if data is not None and frames is not None:
        return "video"
    # the learned strategies' checkpoints were trained for the small model
    small = own or data is not None or family == "learned"
    return task or ("image" if small else "detail")


def _run(source: Source, out: Path, force: bool, answers: bool, by_type: bool) -> None:
    from tokenprune.lab.compare import compare, write_record
    from tokenprune.lab.measure.files import free_path
    from tokenprune.lab.measure.journal import forget

    kept = out.with_name(f"{out.name}.part")
    with progress_bar() as tell, stoppable(tell, partial(_stays, kept)) as heard:
        found = compare(source, progress=heard, say=notice, keep=kept)
    out = free_path(out, force=force)
    try:
        write_record(found, out, answers=answers)
    finally:  # where there is no room for the record, the tables are all that is left
        _print(found, by_type)
    forget(found.journals)
    if any(kept.glob("*.jsonl")):
        notice(f"batches of other comparisons that were interrupted stay in {kept}")
    wide_console().print(line(f"record: {out}"))
    if found.failures:
        raise typer.Exit(1)


def _stays(kept: Path, *_: int) -> str:
    """What of a comparison that was interrupted is kept."""
    if not any(kept.glob("*.jsonl")):
        return "No batch was measured to the end."
    return f"The same command goes on behind the last whole batch; those before it are in {kept}."


def _print(found: Comparison, by_type: bool) -> None:
    from tokenprune.lab.compare import tables

    console = wide_console()
    for part in tables(found, console.width, types=by_type):
        console.print(part)
