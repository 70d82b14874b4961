"""One process that runs cells one after another, and is replaced when it dies."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from typing import Any

import torch

from tokenprune.lab.measure.processes import deaf, fresh_processes
from tokenprune.lab.studies.execute import execute
from tokenprune.lab.studies.load import Cell
from tokenprune.lab.studies.model import Study
from tokenprune.lab.studies.store import Status

Result = tuple[Status, dict[str, Any]]
Job = Callable[[Cell, Study], Result]

#: What CUDA's libraries read: the devices that a process may see.
VISIBLE = "CUDA_VISIBLE_DEVICES"


class Worker:
    """A process of its own, so that one that is killed takes one cell with it and no other.

    Args:
        threads: of the process.
        device: the only GPU that the process sees, as `CUDA_VISIBLE_DEVICES` names it; None: all.
        job: what it does with a cell.
    """

    def __init__(self, threads: int, device: str | None = None, job: Job = execute) -> None:
        self._settings, self._job = (threads, device), job
        self._pool = self._started()

    def submit(self, cell: Cell, study: Study) -> Future[Result]:
        """Run a cell there."""
        with deaf():
            return self._pool.submit(self._job, cell, study)

    def result(self, future: Future[Result]) -> Result:
        """What came of it; `lost` marks a process that died, for which there is a new one now."""
        try:
            return future.result()
        except BrokenProcessPool:
            self._pool = self._started()
            return "failed", {"reason": "the worker process died", "lost": True}

    def stop(self) -> None:
        """End the process; a cell that runs is finished before."""
        self._pool.shutdown(cancel_futures=True)

    def abandon(self) -> None:
        """End the process at once, and with it the cell that runs there."""
        self._leave.set()
        self.stop()

    def _started(self) -> ProcessPoolExecutor:
        context = fresh_processes()
        self._leave = context.Event()
        settings = (*self._settings, self._leave)
        return ProcessPoolExecutor(1, mp_context=context, initializer=_settle, initargs=settings)


def visible_devices() -> list[str]:
    """The GPUs of this machine, or of `CUDA_VISIBLE_DEVICES`, by their names in it."""
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return named[:count] if named else [str(number) for number in range(count)]


def _settle(threads: int, device: str | None, leave: Event) -> None:
    """Runs first in the new process, before anything there touches CUDA."""
    if device is not None:
        os.environ[VISIBLE] = device
    torch.set_num_threads(threads)
    for ending in (_end_with_parent, lambda: _end_when(leave)):
        threading.Thread(target=ending, daemon=True).start()


def _end_with_parent() -> None:
    """A study that is killed must not leave processes that hold memory and wait forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _end_when(leave: Event) -> None:
    leave.wait()
    os._exit(1)
