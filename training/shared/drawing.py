"""Batches drawn ahead by worker processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Draw = Callable[[np.random.Generator], Arrays]


def _work(queue: Any, draw: Draw, key: tuple[int, ...], steps: range) -> None:
    for step in steps:
        queue.put(draw(np.random.default_rng([*key, step])))


@contextmanager
def drawn(
    draw: Draw, key: tuple[int, ...], steps: range, workers: int = 1
) -> Iterator[Iterator[Arrays]]:
    """What `draw` makes for the given steps; the same whatever the number of workers.

    Args:
        draw: makes the fields of one batch from a random generator.
        key: seeds the generators, together with the step.
        steps: to draw for.
        workers: processes.
    """
    context = multiprocessing.get_context("fork")
    queues = [context.Queue(maxsize=4) for _ in range(workers)]
    processes = [
        context.Process(target=_work, args=(queue, draw, key, steps[offset::workers]), daemon=True)
        for offset, queue in enumerate(queues)
    ]
    for process in processes:
        process.start()
    try:
        yield (queues[place % workers].get() for place in range(len(steps)))
    finally:
        for process in processes:
            process.terminate()
