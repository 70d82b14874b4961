"""Choose what EvoPrune's paper leaves open on one half of the samples, report the other half.

    python -m benchmarks.defaults pictures --images DIR --labels CSV --weights FILE
    python -m benchmarks.defaults reference
    python -m benchmarks.defaults protection --limit 800

Every variant changes one parameter of a fixed base and runs at every budget on all samples. The
record holds both halves apart, so that a choice made on `choose` can be read off on `report`. The
halves are those of `tokenprune compare --split first` and `--split second`. `protection` is a
search of its own, on the questions of the reference model: what a step protects, from the defaults
that the other two searches led to.
"""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

import tokenprune
from benchmarks.variants import Stage, protection, stages
from tokenprune.interface.loading import LoadedClassifier, LoadedMllm
from tokenprune.lab.data.pictures import halve, heldout_questions, labelled_pictures
from tokenprune.lab.measure.environment import describe_environment
from tokenprune.lab.measure.task import ClassifyTask, Task, VqaTask
from tokenprune.lab.models import load_model, load_options
from tokenprune.reference import reference_model_path

console = Console()
PICTURE_MODEL = "timm:vit_tiny_patch16_224"
KEEPS = {"pictures": (98, 49), "reference": (16, 8), "protection": (32, 16, 8)}
HALVES = {"choose": "first", "report": "second"}


def make_task(args: argparse.Namespace) -> tuple[Task, int]:
    """The samples with their model, and the last block that feeds what is read."""
    if args.task == "pictures":
        loaded = load_model(PICTURE_MODEL, load_options(None, None, args.weights))
        assert isinstance(loaded, LoadedClassifier)
        rows = labelled_pictures(args.images, args.labels, classes=loaded.classes)
        return ClassifyTask(loaded, rows, 25), 11
    reference = load_model(str(reference_model_path()), load_options(None, None, None))
    assert isinstance(reference, LoadedMllm)
    return VqaTask(reference, heldout_questions(args.limit), 32), 10


def answer(task: Task, inputs: list[Any], stage: Stage | None) -> list[str]:
    """All answers; dense where `stage` is None."""
    plan = {"schema_version": 1, "stages": [{"at": "encoder", **stage}]} if stage else None
    with tokenprune.attach(task.model, plan) if plan else nullcontext():
        return [text for batch in inputs for text in task.read(batch, task.call(batch))]


def chosen(task: Task, split: str) -> list[int]:
    """Numbers of the samples whose image is in one half."""
    images = list(dict.fromkeys(question.image_id for question in task.questions))
    members = set(halve(images, split))
    return [i for i, q in enumerate(task.questions) if q.image_id in members]


def halves(task: Task, found: list[str], dense: list[str]) -> dict[str, Any]:
    """Accuracy and agreement with dense on each half, and which samples were right."""
    right = [task.right(text, q) for text, q in zip(found, task.questions, strict=True)]
    result: dict[str, Any] = {"right": "".join(str(int(value)) for value in right)}
    for half, split in HALVES.items():
        mine = chosen(task, split)
        result[half] = {
            "samples": len(mine),
            "accuracy": sum(right[i] for i in mine) / len(mine),
            "agreement": sum(found[i] == dense[i] for i in mine) / len(mine),
        }
    return result


def search(task: Task, variants: dict[str, Stage], keeps: tuple[int, ...]) -> dict[str, Any]:
    """All variants at all budgets."""
    inputs = [task.inputs(batch) for batch in task.batches]
    dense = answer(task, inputs, None)
    rows: dict[str, dict[str, Any]] = {"dense": {"all": halves(task, dense, dense)}}
    todo = [(name, stage, keep) for name, stage in variants.items() for keep in keeps]
    with Progress(console=console) as progress:
        for name, stage, keep in progress.track(todo, description="variants"):
            found = answer(task, inputs, {**stage, "keep": keep})
            rows.setdefault(name, {})[str(keep)] = halves(task, found, dense)
    return {
        "samples": len(dense),
        "members": {half: chosen(task, split) for half, split in HALVES.items()},
        "rows": rows,
        "stages": variants,
    }


def show(record: dict[str, Any]) -> None:
    """Accuracies of both halves, a row a variant."""
    for name, budgets in record["rows"].items():
        cells = (
            f"{keep}: {row['choose']['accuracy']:.3f} / {row['report']['accuracy']:.3f}"
            for keep, row in budgets.items()
        )
        console.print(f"{name:20} {'   '.join(cells)}", highlight=False)


def main() -> None:
    """Search and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=tuple(KEEPS))
    parser.add_argument("--images", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--limit", type=int, default=400, help="questions to the reference model")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.task == "pictures" and None in (args.images, args.labels, args.weights):
        parser.error("pictures needs --images, --labels and --weights")
    out = args.out or Path(f"benchmarks/records/defaults-{args.task}.json")
    with torch.inference_mode():
        task, last = make_task(args)
        variants = protection() if args.task == "protection" else stages(last)
        record = search(task, variants, KEEPS[args.task])
    record = {
        "schema_version": 1,
        "task": args.task,
        "environment": describe_environment(),
        **record,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record) + "\n")
    show(record)


if __name__ == "__main__":
    main()
