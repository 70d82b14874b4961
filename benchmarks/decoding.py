"""Time of a generated token behind a shortened prompt: caches that grow, and compiled static ones.

    python -m benchmarks.decoding --out benchmarks/records/decoding.json

A LLaVA of random weights, whose tower is small: its prompt is run once, dense and with every plan,
then single tokens behind it are timed in turns. A step with a cache that grows runs as it stands;
behind a static cache that `generate` made it is compiled without a break, as `generate` does it on
a GPU.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from tokenprune_adapters.transformers.llm_names import CACHE_NAMES

import tokenprune
from benchmarks.first_token import WORDS
from benchmarks.models import Inputs, language, llava, llava_call
from benchmarks.recording import finish
from benchmarks.timing import Call, alternating
from benchmarks.towers import sizes
from tokenprune.lab.bench.compiling import compilations, room, shared_copy
from tokenprune.lab.measure.environment import describe_environment

console = Console()
Row = dict[str, Any]
STAGES = {
    "evoprune": {"at": "encoder", "strategy": "evoprune", "keep": 0.5},
    "fopru": {"at": "pre_llm", "strategy": "fopru", "keep": 0.25},
    "fastv": {"at": "decoder", "strategy": "fastv", "layer": 2, "keep": 0.25},
    "pyramiddrop": {"at": "decoder", "strategy": "pyramiddrop"},
}
GROWING, STATIC = "growing", "static"
PATCH = 14
WARMING = 3
"""Untimed tokens of each model, in which its step is compiled (ours)."""


def build(tiny: bool) -> Any:
    """The model."""
    width, layers = (64, 4) if tiny else (1024, 8)
    text = language(width, 2 * width, layers, width // 64, vocabulary=2048)
    return llava(sizes(84 if tiny else 336, PATCH, 64, 8, 4, 128), text)


def prompt(model: Any, images: int) -> Inputs:
    """A prompt with pictures and a question."""
    config = model.config
    pixels = config.vision_config.image_size
    return llava_call(pixels, config.image_seq_length, images, WORDS)


def step(model: Any, run: Any, call: dict[str, Any], kind: str, more: int) -> Call:
    """A call that puts one token more behind a prompt, which is run here.

    Args:
        model: dense or with a plan.
        run: what is called for a token: the model, or what it was compiled to.
        call: the prompt.
        kind: of the cache.
        more: tokens that `generate` makes room for, one more than are put behind the prompt.
    """
    from transformers import StoppingCriteriaList

    def stop(ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return torch.ones(len(ids), dtype=torch.bool, device=ids.device)

    name = next(name for name in CACHE_NAMES if name in inspect.signature(model.forward).parameters)
    static = {} if kind == GROWING else {"cache_implementation": "static", "disable_compile": True}
    out = model.generate(
        **call, **static, max_new_tokens=more, do_sample=False, return_dict_in_generate=True,
        stopping_criteria=StoppingCriteriaList([stop]),
    )  # fmt: skip
    given = {name: getattr(out, name), "input_ids": out.sequences[:, -1:]}
    return lambda: run(**given)


def turns_of(
    models: dict[str, Any], call: dict[str, Any], rounds: int, kind: str, backend: str
) -> list[Row]:
    """All models in turn, behind one prompt.

    Args:
        models: by strategy; the first is dense.
        call: the prompt.
        rounds: timed tokens of each.
        kind: of the cache; steps behind a static one are compiled.
        backend: of `torch.compile`.
    """
    turns: dict[str, Call] = {}
    graphs: dict[str, int] = {}
    for name, model in models.items():
        run = model
        if kind != GROWING:
            run = torch.compile(model, fullgraph=True, dynamic=False, backend=backend)
        turns[name] = step(model, run, call, kind, WARMING + rounds + 2)
        before = compilations()
        for _ in range(WARMING):
            turns[name]()
        graphs[name] = compilations() - before
    found = alternating(turns, call["input_ids"].device, rounds)
    head = {"cache": kind, "prompt": call["input_ids"].shape[1]}
    return [
        {**head, "strategy": name, "seconds": value, "graphs": graphs[name]}
        for name, value in found.items()
    ]


def measure(device: torch.device, rounds: int, tiny: bool, backend: str) -> list[Row]:
    """A row for every cache, number of pictures and strategy."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    dense = build(tiny).to(device, dtype)
    rows: list[Row] = []
    with ExitStack() as attached:
        attached.enter_context(room())
        models = {"dense": dense}
        for name, stage in STAGES.items():
            models[name] = shared_copy(dense)
            plan = {"schema_version": 1, "stages": [stage]}
            attached.enter_context(tokenprune.attach(models[name], plan))
        for images in (1,) if tiny else (1, 4):
            call = {name: value.to(device) for name, value in prompt(dense, images).items()}
            call["pixel_values"] = call["pixel_values"].to(dtype)
            for kind in (GROWING, STATIC):
                found = turns_of(models, call, rounds, kind, backend)
                rows += [{"images": images, **row} for row in found]
    return rows


def table(rows: Sequence[Row]) -> Table:
    """Rows for people, with the speed-up over dense."""
    shown = Table("images", "cache", "strategy", "ms", "speed-up", "graphs")
    dense = 0.0
    for row in rows:
        dense = row["seconds"] if row["strategy"] == "dense" else dense
        cells = (f"{row['seconds'] * 1e3:.2f}", f"{dense / row['seconds']:.2f}", str(row["graphs"]))
        shown.add_row(str(row["images"]), row["cache"], row["strategy"], *cells)
    return shown


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print the rows, write the record and return it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/decoding.json"))
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--rounds", type=int, default=30, help="timed tokens of each")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try this out")
    args = parser.parse_args(arguments)
    with torch.inference_mode():
        rows = measure(torch.device(args.device), args.rounds, args.tiny, args.backend)
    record = {
        "schema_version": 1,
        "environment": describe_environment(),
        "rounds": args.rounds,
        "rows": rows,
    }
    console.print(table(rows))
    return finish(console, args.out, record)


if __name__ == "__main__":
    main()
