"""Times in words."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A time in words, to the minute or, below an hour, to the second."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
