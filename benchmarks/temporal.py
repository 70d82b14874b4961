"""EvoPrune's temporal mode (ours) against its per-frame mode, at equal budgets, on held-out clips.

    python -m benchmarks.temporal --out benchmarks/records/temporal.json

Accuracy only, nothing is timed. Both modes answer the same questions; differences are paired, with
intervals from resampling clips. Random tokens of every frame are the yardstick.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

import tokenprune
from tokenprune.interface.loading import LoadedMllm
from tokenprune.lab.data.pictures import heldout_clip_questions
from tokenprune.lab.judge.judge import by_type
from tokenprune.lab.measure.environment import describe_environment
from tokenprune.lab.measure.statistics import Array, Bootstrap
from tokenprune.lab.measure.task import Task, VqaTask
from tokenprune.lab.models import load_model, load_options
from tokenprune.reference import video_model_path

QUESTIONS = 200
KEEPS = (16, 8)
"""Tokens of every frame."""
VARIANTS: dict[str, dict[str, Any]] = {
    "per frame": {"at": "encoder", "strategy": "evoprune"},
    "temporal": {"at": "encoder", "strategy": "evoprune", "params": {"temporal": True}},
    "random": {"at": "pre_llm", "strategy": "random"},
}


@torch.no_grad()
def answered(task: Task, stage: dict[str, Any]) -> Array:
    """Which questions are answered right with a plan of this stage, `[n]`."""
    plan = tokenprune.load_plan({"images": "frames", "stages": [stage]})
    right: list[bool] = []
    with tokenprune.attach(task.model, plan):
        for batch in task.batches:
            inputs = task.inputs(batch)
            answers = task.read(inputs, task.call(inputs))
            right += [task.right(a, q) for a, q in zip(answers, batch, strict=True)]
    return np.asarray(right, dtype=np.float64)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=QUESTIONS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/temporal.json"))
    options = parser.parse_args()
    loaded = load_model(str(video_model_path()), load_options("cpu"))
    assert isinstance(loaded, LoadedMllm)
    task = VqaTask(loaded, heldout_clip_questions(options.limit), batch_size=8)
    samples = Bootstrap([question.image_id for question in task.questions])
    rows = []
    pairs = [(keep, name) for keep in KEEPS for name in VARIANTS]
    right: dict[tuple[int, str], Array] = {}
    for keep, name in track(pairs, "variants"):
        right[keep, name] = answered(task, {**VARIANTS[name], "keep": keep})
    for keep, name in pairs:
        mine, frame = right[keep, name], right[keep, "per frame"]
        rows.append(
            {
                "tokens a frame": keep,
                "variant": name,
                "accuracy": asdict(samples.mean(mine)),
                "difference to per frame": asdict(samples.difference(mine, frame)),
                "by type": by_type(mine, [question.kind for question in task.questions]),
            }
        )
    record = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": describe_environment(),
        "questions": len(task.questions),
        "rows": rows,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
