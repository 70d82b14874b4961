"""Processes that prepare all at once, which takes long, and then measure one at a time.

The parent orders `prepare SECONDS` and later `measure`, as lines on a worker's standard input. A
worker answers with lines of JSON on its standard output: rows, and what it has reached. It ends
when its standard input is closed, so it never outlives its parent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
READY, DONE = "ready", "done"
#: Seconds that a worker may take to end by itself.
ENDING = 5.0

Put = Callable[[str, Any], None]


@dataclass(frozen=True)
class Job:
    """What a worker does.

    Attributes:
        name: in the record.
        parts: names of what it measures, for a record that has to do without.
        command: the process.
    """

    name: str
    parts: tuple[str, ...]
    command: tuple[str, ...]


@dataclass(eq=False)
class _Worker:
    """A process of a crew.

    Attributes:
        job: what it does.
        process: which has its standard input and output piped.
        errors: file of its standard error.
        reached: `READY`, `DONE`, or nothing yet.
        gone: whether it has ended, or was told to.
    """

    job: Job
    process: subprocess.Popen[str]
    errors: IO[bytes]
    reached: str = ""
    gone: bool = False

    def order(self, line: str) -> None:
        """Tell it something; what tells of its end comes from its output."""
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except OSError:
            pass

    def dismiss(self) -> None:
        """Close its input, at which it ends."""
        self.gone = True
        try:
            assert self.process.stdin is not None
            self.process.stdin.close()
        except OSError:
            pass

    def last_words(self) -> str:
        """How it ended, and the last line of its standard error."""
        try:
            code = self.process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f"exit code {code}: {said[-1] if said else 'it said nothing'}"


@dataclass
class Crew:
    """The workers, from their start to their end; used in a `with` block.

    Attributes:
        jobs: one for each worker.
        put: takes rows by their section of the record; `failed` and `left_out` are sections too.
        environment: variables of the workers, beside the parent's own.
    """

    jobs: Sequence[Job]
    put: Put
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._workers: list[_Worker] = []
        self._said: SimpleQueue[tuple[_Worker, str | None]] = SimpleQueue()
        self._began = time.monotonic()

    def __enter__(self) -> Crew:
        for job in self.jobs:
            errors = tempfile.TemporaryFile()
            process = subprocess.Popen(
                job.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env={**os.environ, **self.environment},
            )
            worker = _Worker(job, process, errors)
            self._workers.append(worker)
            Thread(target=self._listen, args=(worker,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.dismiss()
        until = time.monotonic() + ENDING
        for worker in self._workers:
            try:
                worker.process.wait(max(until - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.errors.close()

    def prepare(self, seconds: float) -> None:
        """Let all prepare at once, and begin nothing new after so many seconds."""
        self._began = time.monotonic()
        for worker in self._workers:
            worker.order(f"prepare {seconds}")

    def await_ready(self, seconds: float) -> None:
        """Wait until all are ready, at most so long; who isn't by then is left out, and ends."""
        self._await(self._workers, READY, time.monotonic() + seconds)
        for worker in self._workers:
            if not worker.gone and worker.reached != READY:
                worker.dismiss()
                worker.process.kill()  # it may be deep inside of a compiler
                for part in worker.job.parts:
                    self.put("left_out", part)

    def measure(self, seconds: float) -> None:
        """Let those that are ready measure one after the other, each for so long at most."""
        for worker in self._workers:
            if worker.gone:
                continue
            worker.order("measure")
            self._await([worker], DONE, time.monotonic() + seconds)
            if not worker.gone and worker.reached != DONE:
                worker.dismiss()
                worker.process.kill()
                error = f"it was still measuring after {seconds:.0f} s"
                self.put("failed", {"what": worker.job.name, "error": error})

    def _listen(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        for line in worker.process.stdout:
            self._said.put((worker, line))
        self._said.put((worker, None))

    def _await(self, workers: Iterable[_Worker], what: str, until: float) -> None:
        """Take in what is said until these workers have reached something, or have ended."""
        waiting = {worker for worker in workers if not worker.gone and worker.reached != what}
        while waiting:
            try:
                worker, line = self._said.get(timeout=max(until - time.monotonic(), 0))
            except Empty:
                return
            self._take(worker, line)
            if worker.gone or worker.reached == what:
                waiting.discard(worker)

    def _take(self, worker: _Worker, line: str | None) -> None:
        if worker.gone:
            return
        if line is None:
            worker.gone = True
            self.put("failed", {"what": worker.job.name, "error": worker.last_words()})
            return
        try:
            said = json.loads(line)
        except ValueError:  # what a library prints while it is imported
            return
        if "reached" in said:
            worker.reached = said["reached"]
            phase = f"{worker.job.name}: {worker.reached}"
            self.put("phases", {"phase": phase, "seconds": time.monotonic() - self._began})
        else:
            self.put(said["section"], said["row"])


class Orders:
    """A worker's end: orders come in, rows go out.

    What is printed goes to standard error from here on. The process ends when its input does.
    """

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        self._orders: SimpleQueue[list[str]] = SimpleQueue()
        Thread(target=self._listen, daemon=True).start()

    def put(self, section: str, row: Any) -> None:
        """Hand a row to the parent."""
        self._say({"section": section, "row": row})

    def reach(self, what: str) -> None:
        """Tell the parent that this worker is `READY` or `DONE`."""
        self._say({"reached": what})

    def wait_for(self, order: str) -> list[str]:
        """Wait for an order, and return what is said with it."""
        while True:
            found, *rest = self._orders.get()
            if found == order:
                return rest

    def rest(self) -> None:
        """Wait for the end, which comes from the parent."""
        Event().wait()

    def _say(self, message: dict[str, Any]) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()

    def _listen(self) -> None:
        for line in sys.stdin:
            if line.strip():
                self._orders.put(line.split())
        os._exit(0)
