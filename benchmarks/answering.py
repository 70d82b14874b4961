"""Answers of variants to the same questions, kept in a file while a long run goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import tokenprune
from benchmarks.variants import Stage
from tokenprune.errors import ReductionError
from tokenprune.lab.measure.statistics import Array
from tokenprune.lab.measure.task import Task

Steps = list[tuple[int, int]]
"""Of every merging step: tokens that arrive and those that are removed."""


@dataclass(frozen=True)
class Answered:
    """One variant at one budget.

    Attributes:
        right: of every question, whether it was answered right.
        steps: of one picture; all pictures have the same.
    """

    right: Array
    steps: Steps


class Journal:
    """The variants that are through, in a file, so that a run that was stopped can go on.

    Args:
        path: JSON lines; None keeps nothing.
        identity: of the run; a file of another one is begun anew.
    """

    def __init__(self, path: Path | None, identity: str = "") -> None:
        self._path, self._known = path, dict[str, Answered]()
        if path is None:
            return
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if lines[:1] != [identity]:
            path.write_text(identity + "\n", encoding="utf-8")
            lines = []
        for line in lines[1:]:
            row = json.loads(line)
            right = np.array([*map(int, row["right"])], dtype=np.float64)
            self._known[row["stage"]] = Answered(right, [(a, b) for a, b in row["steps"]])

    def answered(self, task: Task, inputs: Sequence[Any], stage: Stage | None) -> Answered:
        """What is known of a stage, or of the dense model (None), or measured now."""
        key = json.dumps(stage, sort_keys=True)
        if key not in self._known:
            found = self._known[key] = answer(task, inputs, stage)
            row = {"stage": key, "right": digits(found.right), "steps": found.steps}
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
        return self._known[key]

    def end(self) -> None:
        """The record is written: the file goes."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def answer(task: Task, inputs: Sequence[Any], stage: Stage | None) -> Answered:
    """Which questions are answered right; dense where `stage` is None.

    Raises:
        BudgetError: the schedule can't reach the budget.
        ReductionError: other than the plan's number of tokens reached the LLM.
    """
    plan = {"schema_version": 1, "stages": [{"at": "encoder", **stage}]} if stage else None
    steps: Steps = []
    with tokenprune.attach(task.model, plan) if plan else nullcontext() as handle:
        texts = [text for batch in inputs for text in task.read(batch, task.call(batch))]
        if stage is not None:
            assert handle is not None
            _check_count(handle.meter.tokens["llm"], stage)
            image = handle.trace.images[0]
            counts = [image.patches, *(step.kept for step in image.steps)]
            steps = [(before, before - after) for before, after in pairwise(counts)]
    right = [task.right(text, q) for text, q in zip(texts, task.questions, strict=True)]
    return Answered(np.array(right, dtype=np.float64), steps)


def _check_count(left: float, stage: Stage) -> None:
    if left != stage["keep"]:
        raise ReductionError(f"{left} tokens reached the LLM, the plan says {stage['keep']}.")


def digits(right: Array) -> str:
    """Every answer as 0 or 1."""
    return "".join(str(int(value)) for value in right)
