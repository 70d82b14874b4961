"""The plans of a comparison, divided among processes; each measures dense beside its own."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import torch

from tokenprune.errors import TokenpruneError
from tokenprune.lab.compare.kept import Kept
from tokenprune.lab.compare.source import Source
from tokenprune.lab.measure.entries import Entry
from tokenprune.lab.measure.journal import Journal
from tokenprune.lab.measure.measurement import Measurement, joined
from tokenprune.lab.measure.processes import deaf, fresh_processes
from tokenprune.lab.measure.run import measure
from tokenprune.lab.measure.task import Task
from tokenprune.lab.measure.telling import Tell

#: Seconds between two looks at what the processes told.
TICK = 0.2

_news: Any = None
_stop: Any = None


class Stopped(Exception):
    """Another process failed, so this one's work is of no use."""


def measure_in(
    jobs: int,
    source: Source,
    task: Task,
    entries: Sequence[Entry],
    progress: Tell | None,
    kept: Kept | None = None,
) -> Measurement:
    """Measure in so many processes; with one, in this.

    Processes start fresh and load the model themselves. Each gets an equal share of this one's
    threads, every so-manieth plan, and a dense model to compare the times with.

    Args:
        jobs: number of processes.
        source: the task, for the processes.
        task: the same, built.
        entries: the plans.
        progress: told (runs done, runs in all, what runs).
        kept: where batches are kept, and found if an earlier run was interrupted.

    Raises:
        TokenpruneError: what a process met, or that one of them died.
    """
    jobs = min(jobs, len(entries))
    seed = source.settings.seed
    if jobs <= 1:
        journal = None if kept is None else kept.journal(entries)
        return measure(task, entries, seed=seed, progress=progress, journal=journal)
    places = [range(number, len(entries), jobs) for number in range(jobs)]
    parts = [[entries[place] for place in mine] for mine in places]
    journals = [None if kept is None else kept.journal(mine) for mine in parts]
    threads = max(1, torch.get_num_threads() // jobs)
    context = fresh_processes()
    news, stop = context.Queue(), context.Event()
    with ProcessPoolExecutor(jobs, context, _start, (news, stop, threads)) as pool:
        with deaf():
            futures = [
                pool.submit(_work, number, source, *work)
                for number, work in enumerate(zip(parts, journals, strict=True))
            ]
        with _stopping(stop):
            _follow(futures, news, progress)
            found = [future.result() for future in futures]
    return joined(found, places)


def _start(news: Any, stop: Any, threads: int) -> None:
    global _news, _stop
    _news, _stop = news, stop
    torch.set_num_threads(threads)


def _work(
    number: int, source: Source, entries: list[Entry], journal: Journal | None
) -> Measurement:
    def tell(done: int, total: int, label: str) -> None:
        if _stop.is_set():
            raise Stopped
        _news.put((number, done, total, label))

    seed = source.settings.seed
    return measure(source.task(), entries, seed=seed, progress=tell, journal=journal)


def _follow(futures: Sequence[Future[Measurement]], news: Any, progress: Tell | None) -> None:
    """Hand on what the processes tell, as one, until all are done or one has failed."""
    counts: dict[int, tuple[int, int]] = {}
    while True:
        done, running = wait_for(futures, timeout=0)
        for future in done:
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                raise TokenpruneError(
                    "a process of the comparison died.",
                    where="--jobs",
                    remedy="Give it more memory, or use fewer processes.",
                ) from error
            if error is not None:
                raise error
        if not running:
            return
        try:
            number, finished, total, label = news.get(timeout=TICK)
        except queue.Empty:
            continue
        counts[number] = (finished, total)
        if progress is not None and len(counts) == len(futures):
            progress(sum(n for n, _ in counts.values()), sum(n for _, n in counts.values()), label)


@contextmanager
def _stopping(stop: Any) -> Iterator[None]:
    """Let the other processes end early if this one leaves with an error."""
    try:
        yield
    except BaseException:
        stop.set()
        raise
