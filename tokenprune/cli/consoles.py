"""Where commands print: the terminal, and the progress bar of long commands."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.text import Text

from tokenprune.errors.visible import visible

if TYPE_CHECKING:
    from tokenprune.lab.measure.telling import Tell

#: Lines under a progress bar (ours).
RECENT = 4
#: Columns of plain tables, where no terminal says how many there are.
PLAIN = 120
#: Seconds between two lines about what runs.
PAUSE = 30.0


class _Lines:
    """Says now and then how far a long command is, and how long the rest may take.

    One step may take many minutes, so a thread says which one still runs.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = self._said = self._told = time.monotonic()
        self._done, self._total, self._what = 0, 0, ""
        self._before: int | None = None  # done when it began, by a run that was interrupted
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Lines:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def __call__(self, done: int, total: int, what: str) -> None:
        with self._lock:
            self._told = time.monotonic()
            self._done, self._total, self._what = done, total, what
            self._before = done if self._before is None else self._before
            self._say(self._told)

    def _watch(self) -> None:
        while not self._over.wait(PAUSE):
            with self._lock:
                self._say(time.monotonic())

    def _say(self, now: float) -> None:
        """The step that runs and the time left, unless a line was printed just now."""
        if not self._total or now - self._said < PAUSE:
            return
        self._said = now
        running = now - self._told
        parts = [f"{self._done} of {self._total}: {self._what}"]
        if running >= PAUSE:
            parts.append(f"for {running:.0f} s so far")
        mine = self._done - (self._before or 0)
        if mine:
            each = (self._told - self._start) / mine
            left = each * (self._total - self._done) - min(running, each)
            minutes = round(left / 60)
            parts.append(f"about {minutes} min left" if minutes else "less than a minute left")
        self._console.print(line("; ".join(parts)))


def notice(text: str) -> None:
    """A line on standard error; it stands above a progress bar that is on."""
    print(visible(text), file=sys.stderr, flush=True)


def line(text: str, style: str = "") -> Text:
    """A line of output: names and paths in it are data, so no markup of theirs is read."""
    return Text(visible(text), style)


def wide_console(least: int = 0) -> Console:
    """Standard output; what is no terminal is so wide at least, or as the widest table needs."""
    from tokenprune.lab.judge.tables import WIDE

    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, least or WIDE))


@contextmanager
def stoppable(tell: Tell, said: Callable[[int, int], str]) -> Iterator[Tell]:
    """Hand on what is told; who interrupts the command hears what stays of it.

    Args:
        tell: told (done, in all, what runs).
        said: of the numbers told last, what that is.
    """
    last = (0, 0)

    def heard(done: int, total: int, what: str) -> None:
        nonlocal last
        last = (done, total)
        tell(done, total, what)

    try:
        yield heard
    except KeyboardInterrupt:
        raise KeyboardInterrupt(said(*last)) from None


class Recent:
    """The last lines of what happens, as they stand under a progress bar.

    Attributes:
        lines: the oldest first.
    """

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=RECENT)

    def __rich__(self) -> Group:
        """One line each, cut where the terminal ends."""
        return Group(
            *(Text(visible(line), no_wrap=True, overflow="ellipsis") for line in self.lines)
        )


@contextmanager
def progress_bar(recent: Recent | None = None) -> Iterator[Tell]:
    """A bar on standard error, told (done, in all, what runs).

    What is no terminal, where no bar is seen, gets a line every `PAUSE` seconds.

    Args:
        recent: lines under the bar; whoever gives them prints lines elsewhere, too.
    """
    console = Console(stderr=True, soft_wrap=True)
    if not console.is_terminal:
        if recent is not None:
            yield lambda done, total, what: None
            return
        with _Lines(console) as lines:
            yield lines
        return
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    label = TextColumn("{task.description}", markup=False)  # names are no markup
    progress = Progress(BarColumn(), MofNCompleteColumn(), Remaining(), label)
    task = progress.add_task("", total=None)
    with Live(Group(progress, recent or Recent()), console=Console(stderr=True), transient=True):
        yield lambda done, total, what: progress.update(
            task, completed=done, total=total, description=visible(what)
        )
