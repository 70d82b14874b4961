"""The page of the checkpoints that ship, from the records of their training."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from generators.markdown import MARK, Data, table

RECORDS = Path(__file__).parents[2] / "benchmarks" / "records"
POINTS = 8

PAGE = """\
# Trained checkpoints

{mark}
What the checkpoints that ship with the learned strategies reach on the bundled reference model, and
how they got there. They are made by `training/strategies`; see [training](training.md).

{parts}"""


def trained_checkpoints(records: Path = RECORDS) -> str:
    """The page, in Markdown."""
    found = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(records.glob("training_*.json"))
    ]
    parts = [part for record in found for part in _strategy(record)]
    mark = MARK.format(source="benchmarks/records/training_*.json")
    return PAGE.format(mark=mark, parts="\n".join(parts) or "No record yet.\n")


def _strategy(record: Data) -> Iterable[str]:
    for name, one in record["checkpoints"].items():
        training, held = one["training"], one["heldout"]
        weights, settings = training["checkpoint"], training["settings"]
        yield f"## {record['strategy']}: `bundled:{name}`\n"
        yield (
            f"{weights['parameters']:,} parameters, {weights['bytes'] / 1e6:.2f} MB. "
            f"{settings['steps']} steps of {settings['batch_size']} questions, "
            f"{settings['shared']} a picture, learning rate {settings['lr']}, "
            f"{training['seconds'] / 60:.0f} minutes on one thread of a machine that was busy with "
            "other work.\n"
        )
        if "earlier" in one:
            yield _earlier(one["earlier"])
        yield f"Percent right of {held['questions']} held-out questions, one a picture:\n"
        yield _accuracies(held)
        yield f"{_worst(held)}\n"
        yield "The course of the training, as means over stretches of steps:\n"
        yield _course(training["curve"])


def _earlier(training: Data) -> str:
    settings, last = training["settings"], training["curve"][-1]
    return (
        f"It went on from a run of {settings['steps']} steps with learning rate {settings['lr']}, "
        f"{training['seconds'] / 60:.0f} minutes, whose last accuracy in training was "
        f"{100 * last['accuracy']:.1f} %.\n"
    )


def _accuracies(held: Data) -> str:
    rows = [
        (
            row["label"],
            f"{row['llm_average']:.1f}",
            f"{100 * row['accuracy']:.1f}",
            "{:.1f} to {:.1f}".format(*(100 * end for end in row["interval"])),
        )
        for row in held["rows"]
    ]
    heading = ("plan", "visual tokens, mean over the LLM's layers", "accuracy, %", "95 % interval")
    return table(heading, rows, numbers=3)


def _worst(held: Data) -> str:
    lost = [f"{kind} {100 * points:.1f}" for kind, points in held["lost_by_type"].items()]
    return "Points lost against dense by type of question: " + ", ".join(lost) + "."


def _course(curve: list[Data]) -> str:
    picked = sorted({round(n * (len(curve) - 1) / (POINTS - 1)) for n in range(POINTS)})
    chosen = [curve[place] for place in picked]
    shared = ("loss", "accuracy", "distance", "attention_found")
    names = [name for name in shared if any(name in point for point in chosen)]
    rows = [
        (
            str(point["step"]),
            point["phase"],
            *(f"{point[name]:.3f}" if name in point else "-" for name in names),
        )
        for point in chosen
    ]
    heading = ("step", "phase", *(name.replace("_", " ") for name in names))
    return table(heading, rows, numbers=len(names))
