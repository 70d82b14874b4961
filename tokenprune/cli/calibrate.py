"""`tokenprune calibrate`: the smallest budget within an accuracy, or the largest within a cost."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenprune.cli.consoles import line, notice, progress_bar, stoppable, wide_console
from tokenprune.cli.options import Device, Dtype, Seed, Weights, examples
from tokenprune.errors import DataError

if TYPE_CHECKING:
    from tokenprune.lab.calibrate import Calibration, Goal
    from tokenprune.lab.studies.model import TaskEntry
    from tokenprune.plan import Plan

EXAMPLES = examples(
    "tokenprune calibrate reference plan.yaml --within 1",
    "tokenprune calibrate path/to/llava plan.yaml --data asked.jsonl --within 1 --sure",
    "tokenprune calibrate path/to/qwen2-vl plan.yaml --data asked.jsonl --frames 8 --within 1",
    "tokenprune calibrate reference plan.yaml --flops 0.4 --limit 64",
    "tokenprune calibrate reference plan.yaml --time 0.5 --stage 1 --out faster.yaml",
)

FlopsShare = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, help="Share of dense FLOPs to stay within.")
]
Data = Annotated[
    Path | None, typer.Option(help="Your questions (JSON lines or CSV); default: built-in ones.")
]
Images = Annotated[
    Path | None,
    typer.Option(
        help="For encoders: pictures, one subfolder a class. With --data: the folder of its "
        "pictures; default: that of the file."
    ),
]
Labels = Annotated[Path | None, typer.Option(help="For --images: file,class index.")]
Frames = Annotated[
    int | None,
    typer.Option(min=1, help="With --data: it asks about videos; so many frames of each are seen."),
]
Records = Annotated[
    Path, typer.Option(help="Folder of the records; what is recorded doesn't run again.")
]
Out = Annotated[
    Path | None,
    typer.Option(help="Plan file to write; default: calibrated.yaml, numbered where there is one."),
]
TimeShare = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, help="Share of dense time to stay within.")
]


def command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="reference, a model folder, or timm:NAME.")
    ],
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="Plan file with a budget.")],
    within: Annotated[
        float | None, typer.Option(min=0.0, help="Points of accuracy that may be lost.")
    ] = None,
    flops: FlopsShare = None,
    time: TimeShare = None,
    sure: Annotated[
        bool,
        typer.Option(
            "--sure", help="The 95 % interval's far end has to hold too, on enough samples."
        ),
    ] = False,
    stage: Annotated[
        int | None, typer.Option(min=0, help="Whose keep is looked for, from 0; default: the one.")
    ] = None,
    data: Data = None,
    frames: Frames = None,
    images: Images = None,
    labels: Labels = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many samples.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    seed: Seed = 0,
    weights: Weights = None,
    device: Device = None,
    dtype: Dtype = None,
    records: Records = Path("calibration"),
    out: Out = None,
    force: Annotated[bool, typer.Option(help="Replace a plan that is there already.")] = False,
) -> None:
    """Find the smallest keep within an accuracy, or the largest within a cost, and write the plan.

    The budget stays of the kind that the plan has: tokens, a ratio, or a mean over LLM layers. By
    bisection, with dense beside every budget. The exit code is 1 if no budget holds.
    """
    from tokenprune.lab.calibrate import Target, calibrate
    from tokenprune.lab.calibrate.budgets import budgets_of
    from tokenprune.lab.measure.files import record_path
    from tokenprune.lab.studies.model import ModelEntry
    from tokenprune.plan import load_plan

    goal = _goal(within, flops, time, sure)
    _check_order(model, plan)
    place = record_path(out, "calibrated.yaml", force=force)
    budgets = budgets_of(load_plan(plan), stage)
    asked = Target(
        ModelEntry(name=model, weights=weights, device=device, dtype=dtype),
        _task(data, frames, images, labels, limit),
        records, batch_size, seed,
    )  # fmt: skip
    with progress_bar() as tell, stoppable(tell, partial(_stays, records, place)) as heard:
        found = calibrate(asked, budgets, goal, progress=heard, say=notice)
    _print(found)
    if found.plan is None:
        wide_console().print(line(_unwritten(place)))
        raise typer.Exit(1)
    _write(found.plan, place, records, force=force)


def _write(plan: Plan, place: Path, records: Path, *, force: bool) -> None:
    """Write the plan to a place that is still free, or is to be replaced, and say where."""
    from tokenprune.lab.measure.files import free_path, write_text
    from tokenprune.plan.dump import dump_plan

    place = free_path(place, force=force)
    write_text(place, dump_plan(plan))
    wide_console().print(f"plan: {place}; records: {records}", highlight=False)


def _check_order(model: str, plan: Path) -> None:
    """Refuse a plan in the place of the model, where the plan's place holds no file."""
    if Path(model).is_file() and not plan.is_file():
        raise DataError(
            "the model comes first, and this is a file.",
            where=model,
            remedy=f"Write: tokenprune calibrate {plan} {model}",
        )


def _stays(records: Path, out: Path, tried: int, _: int) -> str:
    """What of a search that was interrupted is recorded."""
    count = f"{tried} keeps were" if tried > 1 else f"{tried or 'no'} keep was"
    return (
        f"{count} tried to the end. {_unwritten(out)} The same command goes on: what is "
        f"recorded in {records} isn't measured again, the keep that was running is."
    )


def _unwritten(out: Path) -> str:
    """That there is no new plan, and whose the file is that stands in its place."""
    left = f"; {out} is of an earlier run and was left as it was" if out.exists() else ""
    return f"No plan was written{left}."


def _goal(within: float | None, flops: float | None, time: float | None, sure: bool) -> Goal:
    from tokenprune.lab.calibrate import Flops, Time, Within

    given: dict[str, Goal] = {}
    if within is not None:
        given["--within"] = Within(within, sure)
    if flops is not None:
        given["--flops"] = Flops(flops)
    if time is not None:
        given["--time"] = Time(time, sure)
    if len(given) != 1:
        raise DataError(
            "a budget is looked for within one limit.",
            where=" and ".join(given) or "calibrate",
            remedy="Pass one of --within POINTS, --flops SHARE and --time SHARE.",
        )
    if sure and flops is not None:
        raise DataError(
            "operations are counted and have no interval.", where="--sure", remedy="Leave it away."
        )
    (goal,) = given.values()
    return goal


def _task(
    data: Path | None,
    frames: int | None,
    images: Path | None,
    labels: Path | None,
    limit: int | None,
) -> TaskEntry:
    from tokenprune.lab.studies.model import TaskEntry

    if data is not None and labels is not None:
        raise DataError(
            "samples are questions or labelled pictures.",
            where="--data and --labels",
            remedy="Leave one of them away.",
        )
    if frames is not None and data is None:
        raise DataError(
            "frames are taken of the videos of your own questions.",
            where="--frames",
            remedy="Pass --data FILE too, or leave it away.",
        )
    if labels is not None and images is None:
        raise DataError(
            "classes are of pictures.", where="--labels", remedy="Pass --images FOLDER too."
        )
    if data is not None:
        return TaskEntry(kind="jsonl", path=data, frames=frames, images=images, limit=limit)
    if images is not None:
        return TaskEntry(kind="pictures", path=images, labels=labels, limit=limit)
    return TaskEntry(limit=limit)


def _print(found: Calibration) -> None:
    from tokenprune.lab.calibrate.table import calibration_table, cautions, conclusion

    console = wide_console()
    console.print(calibration_table(found, console.width))
    for caution in cautions(found):
        console.print(caution)
    console.print(conclusion(found), highlight=False)
