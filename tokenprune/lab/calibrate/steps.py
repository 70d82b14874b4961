"""How a search goes: what every budget's result was, and how long the others may take."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tokenprune.lab.calibrate.forms import written
from tokenprune.lab.calibrate.goals import Goal
from tokenprune.lab.judge.result import Result
from tokenprune.lab.measure.telling import Say, Tell, duration


@dataclass
class Steps:
    """Tells how far a search is; every budget is a step.

    Attributes:
        goal: what has to hold.
        progress: told (steps done, steps at most, what runs).
        say: given a line about every step that is done.
    """

    goal: Goal
    progress: Tell | None = None
    say: Say | None = None
    _most: int = 0
    _done: int = 0
    _cells: int = 0
    _seconds: float = 0.0
    _start: float = 0.0

    def begins(self, shown: str) -> None:
        """A budget is tried now.

        Args:
            shown: the budget as the plan would write it.
        """
        self._start = time.monotonic()
        self._tell(shown)

    def ended(self, shown: str, result: Result, cells: int) -> None:
        """A budget was tried.

        Args:
            shown: the budget as the plan would write it.
            result: of the budget.
            cells: how many ran for it; what was recorded isn't among them.
        """
        self._done += 1
        if cells:
            self._cells += cells
            self._seconds += time.monotonic() - self._start
        self._tell(shown)
        count = f"{self._done} of at most {self._most}: " if self._most else ""
        holds = "holds" if self.goal.holds(result) else "doesn't hold"
        known = "" if cells else ", recorded before"
        left = f"; {self._left()} left" if self._left() else ""
        self._line(f"{count}keep {shown}: {_numbers(self.goal, result)}: {holds}{known}{left}")

    def expect(self, most: int) -> None:
        """The range of the budgets is known now.

        Args:
            most: how many steps there are at most, with those that are done.
        """
        self._most = most
        if most > self._done:
            left = f", {self._left()}" if self._left() else ""
            self._line(f"at most {most - self._done} more keeps to try{left}")

    def _tell(self, shown: str) -> None:
        if self.progress is not None:
            self.progress(self._done, max(self._most, self._done, 1), f"keep {shown}")

    def _line(self, text: str) -> None:
        if self.say is not None:
            self.say(text)

    def _left(self) -> str:
        """How long the other steps take; less, if some are recorded or the search ends early."""
        waiting = self._most - self._done
        if waiting <= 0 or not self._cells:
            return ""
        return f"about {duration(self._seconds / self._cells * waiting)}"


def _numbers(goal: Goal, result: Result) -> str:
    """Accuracy, operations and time in words."""
    shown = written(goal, [result], result)
    interval = f" [{shown.time[1]} {shown.time[2]}]" if goal.heading == "time / dense" else ""
    return (
        f"accuracy {100 * result.accuracy.value:.1f} %, {shown.points[0]} points against dense "
        f"[{shown.points[1]} {shown.points[2]}], FLOPs {shown.flops} and time {shown.time[0]}"
        f"{interval} of dense"
    )
