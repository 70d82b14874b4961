"""Processes that a test kills: forked from one in which the libraries are imported already."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

from tokenprune.lab.measure.processes import fresh_processes


def started(target: Callable[..., object], *args: Any) -> BaseProcess:
    """A process that runs a function of a module."""
    context: Any = fresh_processes()
    process: BaseProcess = context.Process(target=target, args=args)
    process.start()
    return process


@contextmanager
def killed(process: BaseProcess, met: Callable[[], bool]) -> Iterator[None]:
    """Wait until a condition is met or the process ends; it is killed at the end of the block."""
    deadline = time.monotonic() + 300
    try:
        while not met() and process.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield
    finally:
        process.kill()
        process.join()
