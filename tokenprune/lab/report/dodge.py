"""Points of equal cost side by side, since methods are compared at the same budgets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence


def dodged(places: Sequence[float], *, step: float, most: float) -> list[float]:
    """Places where points can be drawn that would lie on each other.

    Args:
        places: on the axis, in the unit of the drawing.
        step: distance of neighbours; points nearer than half of it are moved apart.
        most: no group gets wider than this.

    Returns:
        A place for each point: groups keep their order and their centre.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for number, place in enumerate(places):
        groups[round(2 * place / step)].append(number)
    found = list(places)
    for group in groups.values():
        apart = min(step, most / max(len(group) - 1, 1))
        for rank, number in enumerate(group):
            found[number] += apart * (rank - (len(group) - 1) / 2)
    return found
