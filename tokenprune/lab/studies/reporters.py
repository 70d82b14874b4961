"""Telling others how a study goes: a plug, so that experiment trackers of all kinds fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, ClassVar, Protocol

from tokenprune.lab.measure.metrics import ACCURACY
from tokenprune.lab.studies.store import Record


@dataclass(frozen=True)
class Opening:
    """A study as it starts.

    Attributes:
        study: its name.
        folder: where its records are.
        cells: labels of the cells that run now; recorded ones aren't among them.
        added: labels of the cells that the study added as baselines.
        older: how many of the cells have a record under other code, which doesn't count.
        unfit: labels of cells that can't run, since their plan doesn't fit their model, with the
            reason; they are recorded as failed, and aren't among `cells`.
    """

    study: str
    folder: str
    cells: tuple[str, ...]
    added: tuple[str, ...] = ()
    older: int = 0
    unfit: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CellReport:
    """A cell that has just been recorded.

    Attributes:
        label: its name in messages.
        key: of its record.
        status: `done` or `failed`.
        reason: why it failed.
        numbers: what was measured: means of the metrics, mean tokens per image by stage, seconds
            by stage over all batches, mean seconds of a batch, FLOPs, peak bytes. Empty for
            failed cells.
        config: what the cell is: plan, model, task, revisions, environment.
    """

    label: str
    key: str
    status: str
    reason: str
    numbers: Mapping[str, float]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Closing:
    """A study at its end, also where it was broken off.

    Attributes:
        ran: how many cells ran now.
        failed: how many of these failed.
        complete: whether all that were to run did.
    """

    ran: int
    failed: int
    complete: bool


class Reporter(Protocol):
    """A place that a study's numbers are sent to.

    A dataclass; its fields are its options. What needs a library is checked when it is made, so
    that a study doesn't start without it. What a method raises becomes a warning.
    """

    name: ClassVar[str]

    def started(self, opening: Opening) -> None:
        """Once, before the first cell."""
        ...

    def finished(self, cell: CellReport) -> None:
        """Whenever a cell has been recorded, in any order."""
        ...

    def ended(self, closing: Closing) -> None:
        """Once, after the last cell."""
        ...


@dataclass
class Announcer:
    """Tells all reporters; none of them can harm the study.

    Attributes:
        reporters: whom it tells.
    """

    reporters: Sequence[Reporter]
    _warned: set[int] = field(default_factory=set)
    _ran: int = 0
    _failed: int = 0

    @contextmanager
    def study(self, opening: Opening) -> Iterator[None]:
        """Around a run: starts the reporters, and ends them whatever happens."""
        self._all(lambda reporter: reporter.started(opening))
        try:
            yield
        finally:
            complete = self._ran == len(opening.cells)
            closing = Closing(self._ran, self._failed, complete)
            self._all(lambda reporter: reporter.ended(closing))

    def recorded(self, label: str, record: Record) -> None:
        """A cell's record is on disk."""
        self._ran += 1
        self._failed += record.status == "failed"
        self._all(lambda reporter: reporter.finished(cell_report(label, record)))

    def _all(self, tell: Callable[[Reporter], None]) -> None:
        for number, reporter in enumerate(self.reporters):
            try:
                tell(reporter)
            except Exception as error:
                if number not in self._warned:
                    self._warned.add(number)
                    warnings.warn(
                        f"the reporter '{reporter.name}' failed ({type(error).__name__}: {error}); "
                        "the study goes on, and its records are complete without it.",
                        RuntimeWarning,
                        stacklevel=2,
                    )


def cell_report(label: str, record: Record) -> CellReport:
    """What reporters learn of a record."""
    done = record.status == "done"
    return CellReport(
        label,
        record.key,
        record.status,
        "" if done else str(record.result.get("reason", "")),
        numbers(record.result) if done else {},
        record.identity,
    )


def numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a finished cell under flat names, such as `tokens/llm`."""
    samples = result["samples"]
    found = {ACCURACY: fmean(float(sample["right"]) for sample in samples)}
    for name in samples[0].get("scores", {}):
        found[name] = fmean(float(sample["scores"][name]) for sample in samples)
    for group in ("tokens", "seconds"):
        found |= {f"{group}/{part}": float(n) for part, n in result[group].items()}
    return found | {
        "seconds/batch": fmean(result["wall"]),
        "seconds/dense_batch": fmean(result["dense_wall"]),
        "flops": float(result["flops"]),
        "dense_flops": float(result["dense_flops"]),
        "peak_bytes": float(result["peak_bytes"]),
    }
