"""Intervals of points of equal cost side by side; the points themselves stay where they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence


def beside(places: Sequence[float], *, step: float, most: float) -> list[float]:
    """How far each interval is moved aside, so that those of equal cost can be told apart.

    Args:
        places: of the points on the axis, in the unit of the drawing.
        step: distance of neighbours; points nearer than half of it are taken as equal.
        most: no group gets wider than this.

    Returns:
        A distance for each point: groups keep their order and their centre.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for number, place in enumerate(places):
        groups[round(2 * place / step)].append(number)
    found = [0.0] * len(places)
    for group in groups.values():
        apart = min(step, most / max(len(group) - 1, 1))
        for rank, number in enumerate(group):
            found[number] = apart * (rank - (len(group) - 1) / 2)
    return found
