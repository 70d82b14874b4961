"""Temporal segments: clusters of frames, made contiguous."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tokenprune.ops import cluster_dpc
from tokenprune_strategies.shared.runs import Run, runs

ROUNDING = 1e-9


def segments(frames: Tensor, gamma: float, neighbours: int) -> list[Run]:
    """Temporal segments of a video.

    Args:
        frames: mean feature of every frame, `[T, C]`.
        gamma: clusters as a share of the frames; at least one cluster is made (ours).
        neighbours: k of the density.
    """
    wanted = max(1, int(gamma * len(frames) + ROUNDING))
    _, label = cluster_dpc(frames[None], min(wanted, len(frames)), neighbours=neighbours)
    return runs(contiguous(label[0].tolist()))


def contiguous(labels: Sequence[int]) -> list[int]:
    """Labels of frames with the strays repaired, as PruneVid's released code does.

    Every cluster keeps its longest runs, none if they are of one frame. From left to right, what
    is left takes the label of the longer neighbouring run (ties: the left one; none: 0). A run's
    length includes what it has taken over so far (ours).
    """
    fixed: list[int | None] = list(_anchored(labels))
    for run in runs(fixed):
        if fixed[run.start] is None:
            fixed[run.start : run.stop] = [_neighbour(fixed, run)] * run.length
    return [0 if label is None else label for label in fixed]


def _anchored(labels: Sequence[int]) -> list[int | None]:
    found = runs(labels)
    longest: dict[int, int] = {}
    for run in found:
        label = labels[run.start]
        longest[label] = max(longest.get(label, 0), run.length)
    kept: list[int | None] = [None] * len(labels)
    for run in found:
        label = labels[run.start]
        if 1 < run.length == longest[label]:
            kept[run.start : run.stop] = [label] * run.length
    return kept


def _neighbour(labels: Sequence[int | None], gap: Run) -> int:
    here = runs(labels)
    place = [run.start for run in here].index(gap.start)
    left = here[place - 1] if place else None
    right = here[place + 1] if place + 1 < len(here) else None
    if left is None and right is None:
        return 0
    if right is None or (left is not None and left.length >= right.length):
        assert left is not None
        return _label(labels, left)
    return _label(labels, right)


def _label(labels: Sequence[int | None], run: Run) -> int:
    label = labels[run.start]
    assert label is not None  # gaps are maximal and closed from left to right
    return label
