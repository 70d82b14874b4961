"""EvoPrune's ablations and schedules on the reference model, to be put beside its paper's.

    python -m benchmarks.reproduction

Accuracy only, nothing is timed. All variants answer the same questions, one about each picture,
at every budget. The pictures are of a seed of their own: no default was chosen on them. The record
holds every answer's correctness, intervals by resampling pictures, paired differences for the
orderings of `benchmarks.paper_evoprune` at each budget, in how many steps tokens are protected, and
the schedules under the cap of `benchmarks.silent_cap`. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from tokenprune_strategies.evoprune.params import EvoPruneParams
from tokenprune_strategies.evoprune.scoring import protected_count

from benchmarks import silent_cap
from benchmarks.answering import Answered, Journal, Steps, digits
from benchmarks.paper_evoprune import ORDERINGS, TOME, Ordering
from benchmarks.variants import ABLATIONS, Stage
from tokenprune.errors import BudgetError
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
IMAGES = 1600
KEEPS = (64, 48, 40, 32, 16, 8)
"""The first four as in the paper: nearly every step leaves room for protected tokens."""
REFERENCE = silent_cap.Encoder(patches=196, blocks=11)
"""The reference model's: a plan that says otherwise of it is refused."""
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


def measure(
    task: Task, variants: Mapping[str, Stage], keeps: Sequence[int], journal: Journal
) -> tuple[Array, dict[str, dict[int, Answered]], dict[str, str]]:
    """Dense, every variant at every budget, and why some can't run."""
    inputs = [task.inputs(batch) for batch in task.batches]
    dense = journal.answered(task, inputs, None).right
    found: dict[str, dict[int, Answered]] = {}
    refused: dict[str, str] = {}
    todo = [(name, keep) for keep in keeps for name in variants]
    with Progress(console=console) as progress:
        for name, keep in progress.track(todo, description="variants"):
            stage = {"keep": keep, **variants[name]}
            try:
                found.setdefault(name, {})[keep] = journal.answered(task, inputs, stage)
            except BudgetError as error:
                refused[f"{name} at {keep}"] = str(error)
    return dense, found, refused


def regime(steps: Steps, params: Mapping[str, Any]) -> dict[str, int]:
    """In how many steps of EvoPrune tokens are protected, and in how many as many as CTR says."""
    given = EvoPruneParams.model_validate(dict(params))
    share = given.critical_token_ratio if given.attention else 0.0
    protected = [protected_count(arrived, removed, share) for arrived, removed in steps]
    wanted = [protected_count(arrived, 0, share) for arrived, _ in steps]
    full = sum(a == b > 0 for a, b in zip(protected, wanted, strict=True))
    return {"steps": len(steps), "protecting": sum(n > 0 for n in protected), "full": full}


def rows(
    answered: Mapping[str, Mapping[int, Answered]],
    variants: Mapping[str, Stage],
    bootstrap: Bootstrap,
) -> dict[str, dict[str, Any]]:
    """Accuracy, the paired difference from the full method, and steps, by variant and budget."""
    found: dict[str, dict[str, Any]] = {}
    for name, budgets in answered.items():
        stage, cells = variants[name], found.setdefault(name, {})
        for keep, one in budgets.items():
            if keep not in answered[FULL]:
                continue
            full = answered[FULL][keep].right
            cells[str(keep)] = {
                "accuracy": asdict(bootstrap.mean(one.right)),
                "above_full": asdict(bootstrap.difference(one.right, full)),
                "right": digits(one.right),
            }
            if stage["strategy"] == FULL:
                cells[str(keep)]["steps"] = regime(one.steps, stage.get("params", {}))
    return found


def orderings(
    wanted: Sequence[Ordering], rights: Rights, bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """Paired differences better - worse at every budget that both have; budgets aren't pooled."""
    found = []
    for one in wanted:
        better, worse = rights.get(one.better, {}), rights.get(one.worse, {})
        apart = {
            str(keep): asdict(bootstrap.difference(better[keep], worse[keep]))
            for keep in better
            if keep in worse
        }
        if apart:
            found.append({**asdict(one), "difference": apart})
    return found


def capped(
    task: Task, rights: Rights, cap: silent_cap.Encoder, bootstrap: Bootstrap, journal: Journal
) -> dict[str, Any]:
    """The schedules under a silent cap, beside those that keep exactly what was asked for."""
    inputs = [task.inputs(batch) for batch in task.batches]
    under: dict[str, dict[int, Array]] = {}
    found: dict[str, dict[str, Any]] = {}
    for target in silent_cap.TARGETS:
        for name, stage in silent_cap.capped_stages(cap, target).items():
            right = journal.answered(task, inputs, stage).right
            under.setdefault(name, {})[target] = right
            cell = {"left": stage["keep"], "accuracy": asdict(bootstrap.mean(right))}
            exact = rights.get(name, {}).get(target)
            if exact is not None:
                cell["exact"] = asdict(bootstrap.mean(exact))
                cell["above_exact"] = asdict(bootstrap.difference(right, exact))
            found.setdefault(name, {})[str(target)] = cell
    return {
        "rows": found,
        "orderings": orderings(ORDERINGS, under, bootstrap),
        "paper": silent_cap.in_the_paper(),
    }


def reproduce(
    task: Task,
    variants: Mapping[str, Stage] = VARIANTS,
    keeps: Sequence[int] = KEEPS,
    *,
    cap: silent_cap.Encoder | None = None,
    journal: Journal | None = None,
) -> dict[str, Any]:
    """Everything of the record that is measured.

    Args:
        task: the questions.
        variants: encoder stages without their budgets, the full method among them.
        keeps: the budgets.
        cap: the task's encoder, to run the schedules under a silent cap as well.
        journal: where answers are kept until all are there.
    """
    journal = journal or Journal(None)
    dense, answered, refused = measure(task, variants, keeps, journal)
    bootstrap = Bootstrap([question.image_id for question in task.questions])
    rights = {name: {k: one.right for k, one in cells.items()} for name, cells in answered.items()}
    found = {
        "samples": len(task.questions),
        "keeps": list(keeps),
        "resamples": RESAMPLES,
        "dense": asdict(bootstrap.mean(dense)),
        "variants": dict(variants),
        "rows": rows(answered, variants, bootstrap),
        "orderings": orderings(ORDERINGS, rights, bootstrap),
        "tome": orderings(TOME, rights, bootstrap),
        "refused": refused,
    }
    if cap is not None:
        found["silent_cap"] = capped(task, rights, cap, bootstrap, journal)
    return found


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=IMAGES, help="pictures, a question about each")
    parser.add_argument("--keep", type=int, nargs="+", default=KEEPS, help="budgets, in tokens")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/reproduction.json"))
    args = parser.parse_args()
    reference = load_model(str(reference_model_path()), load_options(None, None, None))
    assert isinstance(reference, LoadedMllm)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    about = {"seed": SEED, "samples": args.limit, "environment": describe_environment()}
    journal = Journal(args.out.with_suffix(".journal"), json.dumps(about))
    with torch.inference_mode():
        task = VqaTask(reference, questions(args.limit), 32)
        measured = reproduce(task, keeps=args.keep, cap=REFERENCE, journal=journal)
    record = {
        "schema_version": 1,
        "seed": SEED,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": describe_environment(),
        **measured,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    journal.end()
    console.print(f"{args.out}: {record['samples']} questions")


if __name__ == "__main__":
    main()
