"""What long runs tell people while they go on."""

from __future__ import annotations

from collections.abc import Callable

Tell = Callable[[int, int, str], None]
"""Is told (steps done, steps in all, what runs)."""

Say = Callable[[str], None]
"""Is given one line of text."""


def duration(seconds: float) -> str:
    """A time in words, to the minute or, below an hour, to the second."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
