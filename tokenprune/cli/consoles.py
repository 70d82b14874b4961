"""Where commands print: the terminal, and the progress bar of long commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from tokenprune.errors.visible import visible


def wide_console() -> Console:
    """Standard output; what is no terminal is as wide as the widest table needs."""
    from tokenprune.lab.judge.tables import WIDE

    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, WIDE))


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """A bar on standard error, told (done, in all, what runs)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    label = TextColumn("{task.description}", markup=False)  # names are no markup
    columns = (BarColumn(), MofNCompleteColumn(), Remaining(), label)
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total, what: progress.update(
            task, completed=done, total=total, description=visible(what)
        )
