"""How a study goes, as lines of text: for logs, where no progress bar is seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from rich.console import Console
from rich.text import Text

from tokenprune.lab.measure.metrics import ACCURACY
from tokenprune.lab.studies.baselines import WHY
from tokenprune.lab.studies.reporters import CellReport, Closing, Opening


@dataclass
class LineReporter:
    """Prints a line for every finished cell: its result, and how long the others may take.

    Attributes:
        console: where to.
    """

    name: ClassVar[str] = "lines"

    console: Console
    _cells: int = 0
    _done: int = 0
    _start: float = field(default_factory=time.monotonic)

    def started(self, opening: Opening) -> None:
        """See `Reporter`."""
        self._cells, self._start = len(opening.cells), time.monotonic()
        self._done = 0
        if opening.added:
            self.console.print(Text(added(opening.added)))

    def finished(self, cell: CellReport) -> None:
        """See `Reporter`."""
        self._done += 1
        waiting = self._cells - self._done
        left = (time.monotonic() - self._start) / self._done * waiting
        estimate = f"; about {duration(left)} left" if waiting else ""
        self.console.print(Text(f"{self._done} of {self._cells}: {outcome(cell)}{estimate}"))

    def ended(self, closing: Closing) -> None:
        """See `Reporter`; the command says how it ended."""


def added(labels: Sequence[str]) -> str:
    """Which cells the study added, and why."""
    return f"added by the study, since {WHY}: {'; '.join(labels)}"


def outcome(cell: CellReport) -> str:
    """A finished cell with its result, on a line."""
    return f"{cell.label}: {_result(cell)}"


def duration(seconds: float) -> str:
    """A time in words, to the minute or, below an hour, to the second."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _result(cell: CellReport) -> str:
    if cell.status != "done":
        return f"failed: {cell.reason}"
    numbers = cell.numbers
    tokens = numbers.get("tokens/llm_average", numbers.get("tokens/encoder"))
    counted = "" if tokens is None else f", {tokens:.1f} tokens"
    time_ratio = numbers["seconds/batch"] / numbers["seconds/dense_batch"]
    return f"accuracy {100 * numbers[ACCURACY]:.1f} %{counted}, time / dense {time_ratio:.2f}"
