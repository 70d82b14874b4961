"""`tokenprune train`: train a learned strategy on a frozen model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tokenprune.cli.consoles import line, progress_bar, stoppable
from tokenprune.cli.options import CheckData, Device, Dtype, Seed, examples

if TYPE_CHECKING:
    from tokenprune.lab.train.run import Trained

EXAMPLES = examples(
    "tokenprune train vistog --plan vistog.yaml --out runs/vistog",
    "tokenprune train dyvte --plan dyvte.yaml --model path/to/llava --data qa.jsonl --out runs/d",
    "tokenprune train vistog --plan vistog.yaml --out runs/vistog --steps 200 --precision float16",
)


Strategy = Annotated[str, typer.Argument(help="A learned strategy.")]
PlanFile = Annotated[Path, typer.Option(help="Plan file with one stage of the strategy.")]
Out = Annotated[Path, typer.Option(help="Folder for weights, plan, record and states.")]
Model = Annotated[
    str | None,
    typer.Option(help="Model folder or reference, which is the default: the bundled model."),
]
Data = Annotated[
    str,
    typer.Option(
        help="reference: fresh questions of the bundled set; or a file of JSON lines "
        '{"image", "question", "answer"}, or CSV.'
    ),
]
Heldout = Annotated[
    Path | None, typer.Option(help="File for the final accuracy, of the same form.")
]
Limit = Annotated[int, typer.Option(min=0, help="At most so many held-out questions; 0 for none.")]
Steps = Annotated[int, typer.Option(min=1)]
BatchSize = Annotated[int, typer.Option(min=1, help="Questions a step.")]
PerPicture = Annotated[
    int,
    typer.Option(min=1, help="Questions about one picture, with one encoder pass; 1 for own data."),
]
LearningRate = Annotated[float, typer.Option(min=0, help="Highest learning rate.")]
SaveEvery = Annotated[int, typer.Option(min=1, help="Steps between states.")]
Precision = Annotated[str, typer.Option(help="Of the written weights: float32 or float16.")]
AuxWeight = Annotated[
    float,
    typer.Option(
        min=0,
        help="Of an auxiliary loss for strategies that make new tokens: how well the encoder's "
        "features can be read from them. The paper's is 0.5; 0 for none.",
    ),
]
AuxPlace = Annotated[str, typer.Option(help="Where it reads: projector, or llm:L behind layer L.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's.")]
Restart = Annotated[bool, typer.Option(help="Forget a run that is in the folder.")]


def command(
    strategy: Strategy,
    plan: PlanFile,
    out: Out,
    model: Model = None,
    data: Data = "reference",
    heldout: Heldout = None,
    limit: Limit = 600,
    steps: Steps = 1000,
    batch_size: BatchSize = 48,
    per_picture: PerPicture = 6,
    lr: LearningRate = 1e-3,
    seed: Seed = 0,
    save_every: SaveEvery = 100,
    precision: Precision = "float32",
    aux_weight: AuxWeight = 0.0,
    aux_place: AuxPlace = "projector",
    threads: Threads = None,
    restart: Restart = False,
    check_data: CheckData = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Train the stage of a plan that a learned strategy has; the model itself stays frozen.

    A run that was stopped goes on where it was when started again with the same settings.
    """
    import torch

    from tokenprune.lab.models import load_model, load_options, model_place
    from tokenprune.lab.train import FileStream, ReferenceStream, TrainSettings, train
    from tokenprune.lab.train.heldout import questions_for
    from tokenprune.plan import load_plan

    own = data != "reference"
    settings = TrainSettings(
        steps=steps, batch_size=batch_size, shared=1 if own else per_picture, lr=lr, seed=seed,
        save_every=save_every, precision=precision, aux_weight=aux_weight, aux_place=aux_place,
    )  # fmt: skip
    start = load_plan(plan)
    stream = FileStream(Path(data), seed, check_data) if own else ReferenceStream(seed)
    asked = questions_for(data, heldout, limit, check_data)
    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load_model(model_place(model, "image"), load_options(device, dtype), wanted="mllm")
    stays = f"the newest state in {out}; there is one every {save_every} steps."
    said = f"the same command goes on from {stays}"
    with progress_bar() as bar, stoppable(bar, lambda *_: said) as tell:
        done = train(
            loaded, strategy, start, out, stream, settings,
            heldout=asked, restart=restart, tell=tell,
        )  # fmt: skip
    _print(done)


def _print(done: Trained) -> None:
    console = Console()
    found = done.data["heldout"]
    if found is not None:
        console.print(
            f"held-out accuracy: {found['accuracy']:.3f} on {found['questions']} questions"
        )
    for path in (done.checkpoint, done.plan, done.record):
        console.print(line(str(path)), soft_wrap=True)
