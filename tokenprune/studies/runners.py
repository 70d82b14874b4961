"""Where cells are run: in this process or in several; a plug, so that clusters fit too."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol

import torch
from pydantic import Field

from tokenprune.studies.execute import execute
from tokenprune.studies.load import Cell
from tokenprune.studies.model import Study
from tokenprune.studies.store import Status

Outcome = tuple[Cell, Status, dict[str, Any]]

#: How often a cell is tried whose worker was lost.
ATTEMPTS = 3


class Runner(Protocol):
    """Runs independent cells somewhere and hands results back as they finish.

    A dataclass; its fields are its options. What needs a library is checked when it is made.
    """

    name: ClassVar[str]

    def run(self, cells: Sequence[Cell], study: Study) -> Iterator[Outcome]:
        """Every cell once, in any order; a lost worker's cell is tried again elsewhere."""
        ...


@dataclass(frozen=True)
class LocalRunner:
    """Processes of this machine.

    Attributes:
        jobs: how many; 1 runs in this process.
    """

    name: ClassVar[str] = "local"

    jobs: Annotated[int, Field(ge=1)] = 1

    def run(self, cells: Sequence[Cell], study: Study) -> Iterator[Outcome]:
        """See `Runner`."""
        if self.jobs == 1:
            for cell in cells:
                yield (cell, *execute(cell, study))
            return
        waiting, attempts = list(cells), 0
        while waiting:
            attempts += 1
            lost: list[Cell] = []
            for cell, status, result in self._pool(waiting, study):
                if status == "failed" and result.get("lost") and attempts < ATTEMPTS:
                    lost.append(cell)
                else:
                    yield cell, status, result
            waiting = lost

    def _pool(self, cells: Sequence[Cell], study: Study) -> Iterator[Outcome]:
        context = multiprocessing.get_context("spawn")
        jobs = min(self.jobs, len(cells))
        threads = max(torch.get_num_threads() // jobs, 1)
        with ProcessPoolExecutor(
            jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,)
        ) as pool:
            futures = {pool.submit(execute, cell, study): cell for cell in cells}
            for future in as_completed(futures):
                yield (futures[future], *_outcome(future))


def _outcome(future: Future[tuple[Status, dict[str, Any]]]) -> tuple[Status, dict[str, Any]]:
    try:
        return future.result()
    except BrokenProcessPool:
        return "failed", {"reason": "the worker process died", "lost": True}
