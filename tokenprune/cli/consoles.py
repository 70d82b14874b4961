"""Where commands print: the terminal, and the progress bar of long commands."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.text import Text

from tokenprune.errors.visible import visible

#: Lines under a progress bar (ours).
RECENT = 4


def wide_console() -> Console:
    """Standard output; what is no terminal is as wide as the widest table needs."""
    from tokenprune.lab.judge.tables import WIDE

    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, WIDE))


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
def progress_bar(recent: Recent | None = None) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on standard error, told (done, in all, what runs).

    Args:
        recent: lines under the bar.
    """
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
