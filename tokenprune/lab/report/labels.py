"""Where labels and intervals of a plot go: beside their points, and not over one another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

Box = tuple[float, float, float, float]

#: Size of a letter and distance from a marker, as shares of the letters' height.
LETTER, GAP = 0.6, 0.55


def placed(
    points: Sequence[tuple[float, float]], texts: Sequence[str], height: float
) -> list[tuple[float, float] | None]:
    """The middle of every label; None for no label: no text, or the same text stands close by.

    Args:
        points: places of the markers, y downwards.
        texts: one a point.
        height: of the letters, in the same unit.
    """
    taken: list[Box] = [
        (x - height / 2, y - height / 2, x + height / 2, y + height / 2) for x, y in points
    ]
    said: list[tuple[str, float, float]] = []
    found: list[tuple[float, float] | None] = []
    for (x, y), text in zip(points, texts, strict=True):
        near = 2 * height
        if not text or any(
            text == other and abs(x - a) < near and abs(y - b) < near for other, a, b in said
        ):
            found.append(None)
            continue
        middle = _free(x, y, LETTER * height * len(text), height, taken)
        taken.append(_box(*middle, LETTER * height * len(text), height))
        said.append((text, x, y))
        found.append(middle)
    return found


def beside(places: Sequence[float], *, step: float, most: float) -> list[float]:
    """How far each interval is moved aside, so that those of equal cost can be told apart.

    The points themselves stay where they are.

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


def _free(
    x: float, y: float, width: float, height: float, taken: Sequence[Box]
) -> tuple[float, float]:
    """The first free place around a marker; above it where all are taken."""
    aside, away = width / 2 + GAP * height, height * (0.5 + GAP)
    around = [
        (x, y - away),
        (x + aside, y - away / 2),
        (x + aside, y + away / 2),
        (x, y + away),
        (x - aside, y - away / 2),
        (x - aside, y + away / 2),
        (x, y - 2 * away),
        (x, y + 2 * away),
    ]
    boxes = [_box(*place, width, height) for place in around]
    free = (n for n, box in enumerate(boxes) if not any(_meet(box, other) for other in taken))
    return around[next(free, 0)]


def _box(x: float, y: float, width: float, height: float) -> Box:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
