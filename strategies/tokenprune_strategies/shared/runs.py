"""Runs of frames with one label."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple


class Run(NamedTuple):
    """Frames `start` to `stop`, without `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of frames."""
        return self.stop - self.start


def runs(labels: Sequence[int | None]) -> list[Run]:
    """Maximal runs of equal label."""
    found, start = [], 0
    for _, members in groupby(labels):
        stop = start + sum(1 for _ in members)
        found.append(Run(start, stop))
        start = stop
    return found
