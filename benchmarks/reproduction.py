"""EvoPrune's ablations and schedules on the reference model, to be put beside its paper's.

    python -m benchmarks.reproduction

Accuracy only, nothing is timed. All variants answer the same questions, one about each picture,
at every budget. The pictures are of a seed of their own: no default was chosen on them. The record
holds every answer's correctness, intervals by resampling pictures, and paired differences for the
orderings of `benchmarks.paper_evoprune`.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

import tokenprune
from benchmarks.paper_evoprune import ORDERINGS, TOME, Ordering
from benchmarks.variants import ABLATIONS, Stage
from tokenprune.errors import BudgetError, ReductionError
from tokenprune.interface.loading import LoadedMllm
from tokenprune.lab.data.question import Question
from tokenprune.lab.measure.environment import describe_environment
from tokenprune.lab.measure.statistics import RESAMPLES, Array, Bootstrap
from tokenprune.lab.measure.task import Task, VqaTask
from tokenprune.lab.models import load_model, load_options
from tokenprune.reference import reference_model_path
from tokenprune.reference.heldout import iter_heldout

console = Console()
SEED = 271_828
"""Of the pictures; the search of the defaults used those of another seed."""
IMAGES = 800
KEEPS = (32, 16, 8)
FULL = "evoprune"
SCHEDULES = ("mean", "first", "last", "increasing", "decreasing")
VARIANTS: dict[str, Stage] = {
    **{
        name: {"strategy": "evoprune", "schedule": "skip", "params": params}
        for name, params in ABLATIONS.items()
    },
    **{name: {"strategy": "evoprune", "schedule": name} for name in SCHEDULES},
    "tome": {"strategy": "tome", "schedule": "mean"},
    "tome, skip": {"strategy": "tome", "schedule": "skip"},
}
Rights = Mapping[str, Mapping[int, Array]]


def questions(images: int) -> list[Question]:
    """One question about each of `images` pictures."""
    found = []
    for image, several in groupby(iter_heldout(images, SEED), key=lambda sample: sample.image_id):
        one = random.Random(SEED + image).choice([*several])
        found.append(Question(one.image, one.answer, one.question, one.type, image))
    return found


def answer(task: Task, inputs: Sequence[Any], stage: Stage | None) -> list[bool]:
    """Which questions are answered right; dense where `stage` is None.

    Raises:
        BudgetError: the schedule can't reach the budget.
        ReductionError: other than the plan's number of tokens reached the LLM.
    """
    plan = {"schema_version": 1, "stages": [{"at": "encoder", **stage}]} if stage else None
    with tokenprune.attach(task.model, plan) if plan else nullcontext() as handle:
        found = [text for batch in inputs for text in task.read(batch, task.call(batch))]
        left = handle.meter.tokens["llm"] if handle is not None else None
    if stage is not None and left != stage["keep"]:
        raise ReductionError(f"{left} tokens reached the LLM, the plan says {stage['keep']}.")
    return [task.right(text, q) for text, q in zip(found, task.questions, strict=True)]


def measure(
    task: Task, variants: Mapping[str, Stage], keeps: Sequence[int]
) -> tuple[list[bool], dict[str, dict[int, Array]], dict[str, str]]:
    """Dense, every variant at every budget, and why some can't run."""
    inputs = [task.inputs(batch) for batch in task.batches]
    dense = answer(task, inputs, None)
    rights: dict[str, dict[int, Array]] = {}
    refused: dict[str, str] = {}
    todo = [(name, keep) for name in variants for keep in keeps]
    with Progress(console=console) as progress:
        for name, keep in progress.track(todo, description="variants"):
            try:
                found = answer(task, inputs, {**variants[name], "keep": keep})
            except BudgetError as error:
                refused[f"{name} at {keep}"] = str(error)
                continue
            rights.setdefault(name, {})[keep] = np.array(found, dtype=np.float64)
    return dense, rights, refused


def rows(rights: Rights, bootstrap: Bootstrap) -> dict[str, dict[str, Any]]:
    """Accuracy and the paired difference from the full method, by variant and budget."""
    return {
        name: {
            str(keep): {
                "accuracy": asdict(bootstrap.mean(right)),
                "above_full": asdict(bootstrap.difference(right, rights[FULL][keep])),
                "right": "".join(str(int(value)) for value in right),
            }
            for keep, right in budgets.items()
            if keep in rights[FULL]
        }
        for name, budgets in rights.items()
    }


def orderings(
    wanted: Sequence[Ordering], rights: Rights, bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """Paired differences better - worse, at every budget that both have and over all of these."""
    found = []
    for one in wanted:
        better, worse = rights.get(one.better, {}), rights.get(one.worse, {})
        keeps = [keep for keep in better if keep in worse]
        if not keeps:
            continue
        apart = {str(keep): bootstrap.difference(better[keep], worse[keep]) for keep in keeps}
        both = [np.mean([side[keep] for keep in keeps], axis=0) for side in (better, worse)]
        apart["mean"] = bootstrap.difference(*both)
        differences = {key: asdict(interval) for key, interval in apart.items()}
        found.append({**asdict(one), "difference": differences})
    return found


def reproduce(
    task: Task, variants: Mapping[str, Stage] = VARIANTS, keeps: Sequence[int] = KEEPS
) -> dict[str, Any]:
    """Everything of the record that is measured."""
    dense, rights, refused = measure(task, variants, keeps)
    bootstrap = Bootstrap([question.image_id for question in task.questions])
    return {
        "samples": len(task.questions),
        "keeps": list(keeps),
        "resamples": RESAMPLES,
        "dense": asdict(bootstrap.mean(np.array(dense, dtype=np.float64))),
        "variants": dict(variants),
        "rows": rows(rights, bootstrap),
        "orderings": orderings(ORDERINGS, rights, bootstrap),
        "tome": orderings(TOME, rights, bootstrap),
        "refused": refused,
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=IMAGES, help="pictures, a question about each")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/reproduction.json"))
    args = parser.parse_args()
    start = time.perf_counter()
    reference = load_model(str(reference_model_path()), load_options(None, None, None))
    assert isinstance(reference, LoadedMllm)
    with torch.inference_mode():
        measured = reproduce(VqaTask(reference, questions(args.limit), 32))
    record = {
        "schema_version": 1,
        "seed": SEED,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "elapsed": round(time.perf_counter() - start, 1),
        "environment": describe_environment(),
        **measured,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    console.print(f"{args.out}: {record['samples']} questions in {record['elapsed']} s")


if __name__ == "__main__":
    main()
