"""The windows of a video in which the most tokens repeat."""

from __future__ import annotations

from torch import Tensor

from tokenprune_strategies.shared.runs import Run

_LONGEST = 1024
"""Frames of a window at most, the code's."""


def windows(still: Tensor) -> tuple[list[Run], int]:
    """A video cut into windows so that merging their static places saves the most tokens.

    A window of w frames with p places that stay still all the time saves p (w - 1). Of equally
    good cuts the one with the shorter last window is taken, as in the code.

    Args:
        still: `[T - 1, n]` True where a place is alike in a frame and in the next.

    Returns:
        The windows, and how many tokens they save.
    """
    frames = len(still) + 1
    best, last = [0] * (frames + 1), [1] * (frames + 1)
    for stop in range(1, frames + 1):
        best[stop] = best[stop - 1]
        static = still.new_ones(still.shape[1])
        for length in range(2, min(stop, _LONGEST) + 1):
            static = static & still[stop - length]
            saved = best[stop - length] + int(static.sum()) * (length - 1)
            if saved > best[stop]:
                best[stop], last[stop] = saved, length
    found, stop = list[Run](), frames
    while stop:
        found.append(Run(stop - last[stop], stop))
        stop -= last[stop]
    return found[::-1], best[frames]
