"""`tokenprune bench`: speed apart from accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tokenprune.cli.consoles import PLAIN, line, notice, progress_bar, wide_console
from tokenprune.cli.options import Device, Dtype, Force, ModelOrClips, Seed, Weights, examples

if TYPE_CHECKING:
    from tokenprune.interface.loading import LoadOptions
    from tokenprune.lab.bench.request import Request
    from tokenprune.lab.bench.rows import BenchRow
    from tokenprune.lab.bench.settings import BenchSettings

EXAMPLES = examples(
    "tokenprune bench",
    "tokenprune bench --plans a.yaml b.yaml --model path/to/llava --batch-size 1 8",
    "tokenprune bench --model path/to/qwen2-vl --size 336 480x640 --images 1 4 --flops formula",
    "tokenprune bench --model path/to/llava-onevision --frames 1 4 8 --plans video.yaml",
    'tokenprune bench --picture cat.png --question "what is this ?" --compile default',
    "tokenprune bench --model timm:vit_tiny_patch16_224 --weights vit.safetensors",
)

Plans = Annotated[
    list[Path] | None,
    typer.Option(help="Plan files; default: training-free methods of static length at a quarter."),
]
Batch = Annotated[list[int] | None, typer.Option(min=1, help="Prompts of a call; default: 1.")]
Images = Annotated[list[int] | None, typer.Option(min=1, help="Pictures per prompt; default: 1.")]
Frames = Annotated[
    list[int] | None,
    typer.Option(
        min=1,
        help="Instead of --images: frames of a clip, or of each of your own videos.",
    ),
]
Size = Annotated[
    list[str] | None, typer.Option(help="Pixels, 336 or 480x640 (height x width); default: 336.")
]
Words = Annotated[int | None, typer.Option(min=1, help="Words of the question; default: 16.")]
NewTokens = Annotated[int, typer.Option(min=1, help="Tokens after the first.")]
Picture = Annotated[
    list[Path] | None,
    typer.Option(help="Your own: the pictures of one prompt; of a classifier, its samples."),
]
Asked = Annotated[str | None, typer.Option(help="About your own pictures.")]
Questions = Annotated[
    Path | None,
    typer.Option(
        help='Your own prompts: JSON lines of {"image", "images" or "video", "question"}, or CSV.'
    ),
]
Rounds = Annotated[
    int,
    typer.Option(
        min=1, help="Measurements of every row; of 20 or fewer, p95 is nearly the slowest."
    ),
]
Flops = Annotated[str, typer.Option(help="measured or formula; both count what runs, padding too.")]
Compile = Annotated[
    str | None,
    typer.Option(
        metavar="MODE",
        help="Also rows through torch.compile: default, or reduce-overhead (CUDA graphs; "
        "classifiers on a GPU). Plans of static length only. Compiling may take minutes a row.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="JSON record to write; default: bench.json, numbered where there is one."),
]


def command(
    plans: Plans = None,
    model: ModelOrClips = None,
    weights: Weights = None,
    batch_size: Batch = None,
    images: Images = None,
    frames: Frames = None,
    size: Size = None,
    words: Words = None,
    new_tokens: NewTokens = 8,
    picture: Picture = None,
    question: Asked = None,
    questions: Questions = None,
    rounds: Rounds = 7,
    flops: Flops = "measured",
    compile: Compile = None,
    seed: Seed = 0,
    out: Out = None,
    force: Force = False,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Measure time to first token, time by stage, FLOPs and memory, against dense.

    Dense runs on the attention backend that is fastest for the workload and is the only baseline;
    with --compile, the faster of both dense rows is, and every turn compiles afresh, untimed. All
    rows take turns in one process; the speed-up is the median of the ratios within a round. Of
    classifiers, one pass is measured.
    """
    from tokenprune.lab.bench.request import Request
    from tokenprune.lab.bench.settings import BenchSettings
    from tokenprune.lab.measure.files import record_path
    from tokenprune.lab.models import load_options

    asked = Request(
        batches=batch_size or (),
        images=images or (),
        frames=frames or (),
        sizes=size or (),
        words=words,
        new_tokens=new_tokens,
        pictures=picture or (),
        question=question,
        questions=questions,
    )
    settings = BenchSettings(rounds=rounds, flops=flops, seed=seed, compile=compile)
    asked.check(settings)
    record = record_path(out, "bench.json", force=force)
    _run(asked, settings, plans or [], model, load_options(device, dtype, weights), record, force)


def _run(
    asked: Request,
    settings: BenchSettings,
    plans: list[Path],
    model: str | None,
    options: LoadOptions,
    out: Path,
    force: bool,
) -> None:
    from tokenprune.cli.plans import named_plans
    from tokenprune.lab.bench import bench
    from tokenprune.lab.bench.inputs import own_note, size_note
    from tokenprune.lab.bench.record import bench_record, write_bench
    from tokenprune.lab.bench.request import quarters
    from tokenprune.lab.measure.files import free_path
    from tokenprune.lab.models import load_model, model_place

    given = named_plans(plans)
    loaded = load_model(model_place(model, "video" if asked.frames else "image"), options)
    given, left_out = (given, []) if given else quarters(loaded)
    own = asked.own(loaded)
    sizes = asked.workloads(own)
    missed = own_note(len(own), sizes, settings.rounds)
    told = (size_note(loaded, sizes), missed, settings.caveat, *left_out)
    notes = [note for note in told if note]
    with progress_bar() as tell:
        rows = bench(loaded, given, sizes, settings, tell, own, notice)
    out = free_path(out, force=force)
    try:
        write_bench(bench_record(loaded, given, settings, rows, own, notes), out)
    finally:  # where there is no room for the record, the tables are all that is left
        _show(rows, settings.flops, notes)
    Console().print(line(f"record: {out}"), soft_wrap=True)


def _show(rows: list[BenchRow], flops: str, notes: list[str]) -> None:
    from tokenprune.lab.bench import bench_tables
    from tokenprune.lab.bench.record import MEANING
    from tokenprune.lab.bench.rows import attention_of
    from tokenprune.lab.bench.table import verdicts

    console = wide_console(PLAIN)
    for note in notes:
        console.print(line(f"note: {note}"))
    backends = ", ".join(attention_of(rows))
    console.print(f"dense attention: {backends}; FLOPs: {MEANING[flops]}", highlight=False)
    for part in bench_tables(rows):
        console.print(part)
    for verdict in verdicts(rows):
        console.print(line(verdict))
