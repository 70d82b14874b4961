"""`tokenprune show`: which tokens a plan keeps and merges, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tokenprune.cli.consoles import line
from tokenprune.cli.options import Device, Dtype, ModelOrClips, Overrides, Weights, examples

EXAMPLES = examples(
    "tokenprune show photo.jpg --plan plan.yaml --out kept.png",
    "tokenprune show a.jpg b.jpg --plan plan.yaml --model path/to/llava --question 'what is this?'",
    "tokenprune show a.jpg --plan plan.yaml --model timm:NAME --weights vit.safetensors",
    "tokenprune show a.mp4 --frames 8 --plan plan.yaml --model path/to/qwen2.5-vl",
)


def command(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures, or videos.")],
    plan: Annotated[Path, typer.Option(help="Plan file.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Picture to write, in the format of its ending; default: tokens.png, numbered "
            "where there is one."
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace a picture that is there already.")] = False,
    model: ModelOrClips = None,
    weights: Weights = None,
    question: Annotated[
        str, typer.Option(help="What a multimodal LLM is asked.")
    ] = "how many objects are there ?",
    frames: Annotated[
        int | None,
        typer.Option(
            min=1, help="They are videos, or folders of frames; so many of each are seen."
        ),
    ] = None,
    every_site: Annotated[
        bool, typer.Option("--sites", help="One panel a site, not only the last of a stage.")
    ] = False,
    overrides: Overrides = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Draw what a plan keeps, merges and drops of pictures or videos, one panel a stage."""
    from tokenprune.interface.loading import LoadedMllm
    from tokenprune.lab.data.opening import opened
    from tokenprune.lab.data.reading import drawing_format
    from tokenprune.lab.data.videos import Clip
    from tokenprune.lab.drawing.show import show
    from tokenprune.lab.judge.warnings import unknown_words
    from tokenprune.lab.measure.files import free_path, record_path, writing_failed
    from tokenprune.lab.models import load_model, load_options, model_place
    from tokenprune.plan import load_plan

    loaded_plan = load_plan(plan, overrides=overrides or ())
    pictures = [
        (path.name, opened(path if frames is None else Clip.of(path, frames, _place(path, frames))))
        for path in images
    ]
    place = record_path(out, "tokens.png", force=force)
    kind = drawing_format(place)
    options = load_options(device, dtype, weights)
    loaded = load_model(model_place(model, "image" if frames is None else "video"), options)
    console = Console(soft_wrap=True)
    missing = loaded.unknown(question) if isinstance(loaded, LoadedMllm) else []
    if missing:
        console.print(line(f"beware: {unknown_words(missing)}", "yellow"))
    sheet = show(loaded, loaded_plan, pictures, question=question, every_site=every_site)
    place = free_path(place, force=force)
    try:
        sheet.save(place, format=kind)
    except OSError as error:
        raise writing_failed(place, error) from error
    console.print(line(f"wrote {place}: {sheet.width} x {sheet.height}"))


def _place(path: Path, frames: int) -> str:
    """What errors call a video."""
    return f"{path}, --frames {frames}"
