"""Scenes of the detail task: many small items, of which some shapes stand in groups of up to nine.

Places, sizes and tilts come in steps, so that a drawn item is one of a few thousand stamps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tokenprune.reference.scene import COLOURS, DIGITS, PATCH, SHAPES, Item

DETAIL_CANVAS = 160
DETAIL_GRID = DETAIL_CANVAS // PATCH

#: Diameters in pixels, of objects and of digits.
SIZES = (10.0, 11.0, 12.0, 13.0)
DIGIT_SIZES = (12.0, 13.0, 14.0)
#: Rotations in radians.
TILTS = tuple(math.radians(angle) for angle in (-15, -10, -5, 0, 5, 10, 15))
#: Most objects of one shape.
MAX_GROUP = 9
MAX_DIGITS = 4
#: As many items as a scene can have: four groups, three lone objects, the digits.
MAX_DETAIL_ITEMS = 4 * MAX_GROUP + 3 + MAX_DIGITS

#: How often an item is put right beside a lone object, if one is free.
BESIDE_SHARE = 0.35


@dataclass(frozen=True)
class DetailScene:
    """All items of one picture.

    Attributes:
        items: lone objects first, then digits, then the groups.
    """

    items: tuple[Item, ...]

    @property
    def objects(self) -> tuple[Item, ...]:
        """The items that are shapes."""
        return tuple(item for item in self.items if not item.is_digit)

    @property
    def digits(self) -> tuple[Item, ...]:
        """The items that are digits, each of a colour of its own."""
        return tuple(item for item in self.items if item.is_digit)

    @property
    def lone(self) -> tuple[Item, ...]:
        """The objects whose shape is there once."""
        kinds = [item.kind for item in self.objects]
        return tuple(item for item in self.objects if kinds.count(item.kind) == 1)


def _groups(rng: np.random.Generator, shapes: list[str]) -> list[tuple[str, str]]:
    """Kind and colour of the objects of every group: one colour, or two or three of them."""
    looks: list[tuple[str, str]] = []
    names = tuple(COLOURS)
    for shape in shapes:
        size = int(rng.integers(3, MAX_GROUP + 1))
        pool = rng.permutation(len(names))[: int(rng.integers(1, 4))]
        looks += [(shape, names[int(pool[int(i)])]) for i in rng.integers(0, len(pool), size)]
    return looks


def _looks(rng: np.random.Generator) -> list[tuple[str, str]]:
    """Kind and colour of all items, lone objects first."""
    order = [SHAPES[int(i)] for i in rng.permutation(len(SHAPES))]
    groups, lone = int(rng.integers(2, 5)), int(rng.integers(2, 4))
    names = tuple(COLOURS)
    looks = [(shape, names[int(rng.integers(len(names)))]) for shape in order[:lone]]
    digits = int(rng.integers(2, MAX_DIGITS + 1))
    for colour in rng.permutation(len(names))[:digits]:
        looks.append((DIGITS[int(rng.integers(10))], names[int(colour)]))
    return looks + _groups(rng, order[lone : lone + groups])


def _half(value: float) -> float:
    """The nearest half pixel."""
    return round(2.0 * value) / 2.0


def _beside(rng: np.random.Generator, anchor: Item, size: float) -> tuple[float, float]:
    """A place right beside an item, on one of its four sides."""
    along = 0.56 * (anchor.size + size) + float(rng.uniform(1.0, 4.0))
    across = float(rng.uniform(-2.0, 2.0))
    x, y = ((along, across), (-along, across), (across, along), (across, -along))[
        int(rng.integers(4))
    ]
    return anchor.x + x, anchor.y + y


def _fits(placed: list[Item], x: float, y: float, size: float) -> bool:
    """Whether an item here is inside the picture and touches no other one."""
    margin = 0.55 * size
    inside = margin <= min(x, y) and max(x, y) <= DETAIL_CANVAS - margin
    return inside and all(
        math.hypot(x - other.x, y - other.y) > 0.56 * (size + other.size) for other in placed
    )


def _place(
    rng: np.random.Generator, placed: list[Item], lone: int, size: float
) -> tuple[float, float] | None:
    """A free centre for an item of this size, or `None` after many tries."""
    beside = bool(placed) and rng.random() < BESIDE_SHARE
    for attempt in range(40):
        if beside and attempt < 4:
            anchor = placed[int(rng.integers(min(lone, len(placed))))]
            x, y = _beside(rng, anchor, size)
        else:
            x, y = (float(v) for v in rng.uniform(0.0, DETAIL_CANVAS, size=2))
        x, y = _half(x), _half(y)
        if _fits(placed, x, y, size):
            return x, y
    return None


def sample_detail_scene(rng: np.random.Generator) -> DetailScene:
    """Draw a scene of two or three lone objects, two to four digits and two to four groups.

    A group is three to nine objects of one shape; a shape of a group is that of no lone object.
    An item that finds no place is left out, so a group may come out smaller.
    """
    looks = _looks(rng)
    lone = next(number for number, (kind, _) in enumerate(looks) if kind in DIGITS)
    items: list[Item] = []
    for kind, colour in looks:
        sizes = DIGIT_SIZES if kind in DIGITS else SIZES
        size = sizes[int(rng.integers(len(sizes)))]
        spot = _place(rng, items, lone, size)
        if spot is not None:
            tilt = TILTS[int(rng.integers(len(TILTS)))]
            items.append(Item(kind, colour, spot[0], spot[1], size, tilt))
    return DetailScene(tuple(items))
