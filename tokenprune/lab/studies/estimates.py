"""How long a study will take, from one batch of every cell."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tokenprune.engine.attach import attach
from tokenprune.lab.measure.code import digest
from tokenprune.lab.measure.counting import counted_batches
from tokenprune.lab.measure.preparing import first_ready
from tokenprune.lab.measure.task import Task
from tokenprune.lab.measure.telling import Tell
from tokenprune.lab.studies.execute import cell_task
from tokenprune.lab.studies.load import Cell
from tokenprune.lab.studies.model import Study
from tokenprune.lab.studies.older import older_keys
from tokenprune.lab.studies.run import identified
from tokenprune.lab.studies.store import Damaged, Store
from tokenprune.plan import Plan


@dataclass(frozen=True)
class Estimate:
    """One cell of a dry run.

    Attributes:
        cell: the cell.
        samples: samples of its task.
        seconds: what it will take, dense beside it included; 0 where its plan doesn't fit.
        recorded: whether there is a good record already, so that it won't run.
        older: whether there is one under other code, which doesn't count.
    """

    cell: Cell
    samples: int
    seconds: float
    recorded: bool
    older: bool = False


def estimate(
    study: Study,
    tell: Tell | None = None,
    *,
    check: int | None = None,
) -> list[Estimate]:
    """Run one batch of every cell and multiply; nothing is recorded.

    Args:
        study: what would run.
        tell: told (cells done, cells in all, what is next).
        check: pictures that are opened before, see `check_samples`.

    Raises:
        TokenpruneError: see `identified`.
    """
    found, dense = [], dict[tuple[str, str], float]()
    known = identified(study, check)
    recorded, older = _recorded(study, [about for _, about in known])
    for number, (cell, about) in enumerate(known):
        if tell is not None:
            tell(number, len(known), cell.label)
        task = cell_task(cell, study)
        if cell.unfit:
            found.append(Estimate(cell, len(task.questions), 0.0, recorded=False))
            continue
        pair = (cell.model.model_dump_json(), cell.task.model_dump_json())
        if pair not in dense:
            _batch(task, Plan())  # what is loaded or compiled at the first call comes once
            dense[pair] = _batch(task, Plan())
        mine = _batch(task, cell.plan) if cell.plan.stages else 0.0
        # a cell runs dense, dense under an empty plan, and itself; some batches once more to count
        # FLOPs; then itself for its peak memory and for the pictures of the report
        batches = len(task.questions) / len(task.batches[0])
        runs = batches + len(counted_batches(len(task.batches)))
        seconds = runs * (2 * dense[pair] + mine) + 2 * (mine or dense[pair])
        key = digest(about)
        found.append(Estimate(cell, len(task.questions), seconds, key in recorded, key in older))
    return found


def _recorded(study: Study, identities: Sequence[dict[str, Any]]) -> tuple[set[str], set[str]]:
    """Keys of cells with a good record, and of others that have one under other code."""
    if not study.out.is_dir():  # a store would make it
        return set(), set()
    store, recorded = Store(study.out), set()
    for key in map(digest, identities):
        try:
            record = store.read(key)
        except Damaged:
            continue
        if record is not None and record.status == "done":
            recorded.add(key)
    lacking = [one for one in identities if digest(one) not in recorded]
    return recorded, older_keys(store, lacking)


def _batch(task: Task, plan: Plan) -> float:
    inputs = first_ready(task).inputs
    with torch.no_grad(), attach(task.model, plan):
        start = time.perf_counter()
        task.call(inputs)
        return time.perf_counter() - start
