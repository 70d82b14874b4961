"""Where cells run: a plug; this module has the one for the processes of one machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Protocol

import torch
from pydantic import Field

from tokenprune.lab.studies.execute import execute, forget_models
from tokenprune.lab.studies.load import Cell
from tokenprune.lab.studies.model import Study
from tokenprune.lab.studies.store import Status
from tokenprune.lab.studies.worker import Result, Worker, visible_devices

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
    """Processes of this machine; where it has several GPUs, each process sees one of them.

    Attributes:
        jobs: how many processes; 1 runs in this one. Default: as many as there are GPUs.
    """

    name: ClassVar[str] = "local"

    jobs: Annotated[int, Field(ge=1)] | None = None

    @property
    def processes(self) -> int:
        """How many there are if there are as many cells."""
        return self.jobs or max(len(visible_devices()), 1)

    def run(self, cells: Sequence[Cell], study: Study) -> Iterator[Outcome]:
        """See `Runner`."""
        devices = [] if _numbered(cells) else visible_devices()
        jobs = min(self.processes, len(cells))
        if jobs > 1:
            forget_models()
            yield from _shared(cells, study, jobs, devices)
        else:
            for cell in cells:
                yield (cell, *execute(cell, study))


def _numbered(cells: Sequence[Cell]) -> bool:
    """Whether the study itself says which GPU a model is on, such as `cuda:1`."""
    return any(":" in (cell.model.device or "") for cell in cells)


def _shared(
    cells: Sequence[Cell], study: Study, jobs: int, devices: Sequence[str]
) -> Iterator[Outcome]:
    """Cells shared among processes; one whose process died is tried again after the others."""
    waiting = deque((cell, 1) for cell in cells)
    running: dict[Future[Result], tuple[Worker, Cell, int]] = {}
    with ExitStack() as stopping:
        free = _workers(jobs, devices)
        for worker in free:
            stopping.push(partial(_ended, worker))
        while waiting or running:
            while waiting and free:
                worker, (cell, attempt) = free.pop(), waiting.popleft()
                running[worker.submit(cell, study)] = (worker, cell, attempt)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                worker, cell, attempt = running.pop(future)
                status, result = worker.result(future)
                free.append(worker)
                if result.get("lost") and attempt < ATTEMPTS:
                    waiting.append((cell, attempt + 1))
                else:
                    yield cell, status, result


def _ended(worker: Worker, kind: type[BaseException] | None, *_: object) -> None:
    """Whoever is interrupted doesn't wait for the cells that run."""
    if kind is not None and not issubclass(kind, Exception):
        worker.abandon()
    else:
        worker.stop()


def _workers(jobs: int, devices: Sequence[str]) -> list[Worker]:
    threads = max(torch.get_num_threads() // jobs, 1)
    own = [devices[number % len(devices)] if devices else None for number in range(jobs)]
    return [Worker(threads, device) for device in own]
