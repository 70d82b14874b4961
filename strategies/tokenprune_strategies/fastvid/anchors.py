"""The anchor frames of a segment."""

from __future__ import annotations

from tokenprune_strategies.shared.runs import Run


def anchors(run: Run, stride: int) -> list[int]:
    """Every `stride`-th frame of a segment, counted from its last one, ascending."""
    return [frame for frame in range(*run) if (run.stop - 1 - frame) % stride == 0]
