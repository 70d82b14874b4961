"""`tokenprune bench`: speed apart from accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tokenprune.cli.examples import examples
from tokenprune.cli.progress import progress_bar

if TYPE_CHECKING:
    from tokenprune.plan import Plan

EXAMPLES = examples(
    "tokenprune bench",
    "tokenprune bench --plans a.yaml b.yaml --model path/to/llava --batch-size 1 8",
    "tokenprune bench --size 336 --size 480x640 --images 1 4 --flops formula",
)


def command(
    plans: Annotated[
        list[Path] | None,
        typer.Option(help="Plan files; default: static methods at a quarter."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model folder; default: the bundled reference model.")
    ] = None,
    batch_size: Annotated[list[int] | None, typer.Option(min=1, help="Default: 1 and 8.")] = None,
    images: Annotated[
        list[int] | None, typer.Option(min=1, help="Pictures per prompt; default: 1.")
    ] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="Pixels: 336 or 480x640; default: 336.")
    ] = None,
    words: Annotated[int, typer.Option(min=1, help="Words of the question.")] = 16,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens after the first.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of every row.")] = 7,
    flops: Annotated[str, typer.Option(help="measured or formula.")] = "measured",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path, typer.Option(help="JSON record to write.")] = Path("bench.json"),
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
) -> None:
    """Measure time to first token, time by stage, FLOPs and memory, against dense.

    Dense runs on its fastest attention backend and is the only baseline. All rows take turns in
    one process; the speed-up is the median of the ratios within a round.
    """
    from tokenprune.bench import BenchSettings, bench, bench_tables, workloads
    from tokenprune.bench.record import MEANING, bench_record, write_bench
    from tokenprune.bench.table import verdicts
    from tokenprune.bench.workload import parse_size
    from tokenprune.cli.plans import read_plans
    from tokenprune.compare.record import check_writable
    from tokenprune.errors import DataError
    from tokenprune.loading import LoadedMllm, load_model, load_options
    from tokenprune.reference import reference_model_path

    check_writable(out)
    if flops not in MEANING:
        raise DataError(
            f"there is no '{flops}'.", where="--flops", remedy="Use measured or formula."
        )
    sizes = [parse_size(text) for text in size or ("336",)]
    loaded = load_model(model or str(reference_model_path()), load_options(device, dtype))
    if not isinstance(loaded, LoadedMllm):
        raise DataError("bench measures multimodal LLMs.", where="--model")
    given = read_plans(plans or ()) or quarters()
    swept = workloads(
        batch_size or (1, 8), images or (1,), sizes, words=words, new_tokens=new_tokens
    )
    settings = BenchSettings(rounds=rounds, flops=flops, seed=seed)
    with progress_bar() as tell:
        backend, rows = bench(loaded, given, swept, settings, tell)
    write_bench(bench_record(loaded, given, settings, backend, rows), out)
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, 120))
    console.print(f"dense attention: {backend}; FLOPs: {MEANING[flops]}", highlight=False)
    for part in bench_tables(rows):
        console.print(part)
    for line in verdicts(rows):
        console.print(line, highlight=False)
    console.print(f"record: {out}", highlight=False)


def quarters() -> list[tuple[str, Plan]]:
    """Every training-free strategy of static length, where comparisons put it, at a quarter."""
    from tokenprune.compare.defaults import home
    from tokenprune.plan import load_plan
    from tokenprune.plugins import host

    found = []
    for name, kind in sorted(host().strategies.items()):
        if kind.training_free and kind.static:
            stage = {"at": home(kind), "strategy": name, "keep": 0.25}
            found.append((name, load_plan({"stages": [stage]})))
    return found
