"""How long a study will take, from one batch of every cell."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tokenprune.compare.task import Task
from tokenprune.engine import attach
from tokenprune.plan import Plan
from tokenprune.studies.execute import cell_task
from tokenprune.studies.load import Cell, cells
from tokenprune.studies.model import Study


@dataclass(frozen=True)
class Estimate:
    """One cell of a dry run.

    Attributes:
        cell: the cell.
        samples: samples of its task.
        seconds: what it will take, dense beside it included.
    """

    cell: Cell
    samples: int
    seconds: float


def estimate(study: Study, tell: Callable[[int, int, str], None] | None = None) -> list[Estimate]:
    """Run one batch of every cell and multiply.

    Raises:
        TokenpruneError: a model, a task or a plan that doesn't fit.
    """
    found, dense = [], dict[tuple[str, str], float]()
    every = cells(study)
    for number, cell in enumerate(every):
        if tell is not None:
            tell(number, len(every), cell.label)
        task = cell_task(cell, study)
        pair = (cell.model.model_dump_json(), cell.task.model_dump_json())
        if pair not in dense:
            dense[pair] = _batch(task, Plan())
        mine = _batch(task, cell.plan) if cell.plan.stages else 0.0
        # a cell runs dense, dense under an empty plan, and itself; the first batch once more
        runs = len(task.batches) + 1
        found.append(Estimate(cell, len(task.questions), runs * (2 * dense[pair] + mine)))
    return found


def _batch(task: Task, plan: Plan) -> float:
    inputs = task.inputs(task.batches[0])
    with torch.no_grad(), attach(task.model, plan):
        start = time.perf_counter()
        task.call(inputs)
        return time.perf_counter() - start
