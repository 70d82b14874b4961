"""How a study goes, as lines of text: for logs, and under the bar of a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from tokenprune.lab.measure.metrics import ACCURACY
from tokenprune.lab.measure.telling import Say, duration
from tokenprune.lab.studies.baselines import WHY
from tokenprune.lab.studies.older import OLDER
from tokenprune.lab.studies.reporters import CellReport, Closing, Opening


@dataclass
class LineReporter:
    """Tells a line for every finished cell: its result, and how long the others may take.

    Attributes:
        tell: is given every line.
    """

    name: ClassVar[str] = "lines"

    tell: Say
    _cells: int = 0
    _done: int = 0
    _start: float = field(default_factory=time.monotonic)

    def started(self, opening: Opening) -> None:
        """See `Reporter`."""
        self._cells, self._start = len(opening.cells), time.monotonic()
        self._done = 0
        if opening.added:
            self.tell(added(opening.added))
        for label, reason in opening.unfit.items():
            self.tell(f"not run: {label}: {reason}")
        if opening.older:
            self.tell(f"{older(opening.older)}; what is run now takes their place")

    def finished(self, cell: CellReport) -> None:
        """See `Reporter`."""
        self._done += 1
        waiting = self._cells - self._done
        left = (time.monotonic() - self._start) / self._done * waiting
        estimate = f"; about {duration(left)} left" if waiting else ""
        self.tell(f"{self._done} of {self._cells}: {cell.label}: {_result(cell)}{estimate}")

    def ended(self, closing: Closing) -> None:
        """See `Reporter`; the command says how it ended."""


def added(labels: Sequence[str]) -> str:
    """Which cells the study added, and why."""
    return f"added by the study, since {WHY}: {'; '.join(labels)}"


def older(count: int) -> str:
    """How many cells have a record that doesn't count, and how such records are shown."""
    return f"{count} {OLDER} (report --all shows {'it' if count == 1 else 'them'})"


def _result(cell: CellReport) -> str:
    if cell.status != "done":
        return f"failed: {cell.reason}"
    numbers = cell.numbers
    tokens = numbers.get("tokens/llm_average", numbers.get("tokens/encoder"))
    counted = "" if tokens is None else f", {tokens:.1f} tokens"
    time_ratio = numbers["seconds/batch"] / numbers["seconds/dense_batch"]
    return f"accuracy {100 * numbers[ACCURACY]:.1f} %{counted}, time / dense {time_ratio:.2f}"
