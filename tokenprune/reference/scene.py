"""Scenes of the bundled visual question answering set: what is where, before any pixel is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CANVAS = 112
PATCH = 8
GRID = CANVAS // PATCH

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart")
DIGITS = tuple("0123456789")
KINDS = SHAPES + DIGITS
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 40, 40),
    "green": (36, 170, 60),
    "blue": (40, 80, 230),
    "yellow": (240, 215, 40),
    "purple": (150, 50, 190),
    "orange": (245, 135, 20),
    "white": (248, 248, 248),
    "black": (16, 16, 16),
}

MIN_SIZE = 14.0
MAX_SIZE = 28.0
MAX_TILT = math.radians(15.0)
MAX_ITEMS = 5
DIGIT_SHARE = 0.5
REPEAT_SHARE = 0.5


@dataclass(frozen=True)
class Item:
    """One drawn thing: a shape (an *object*) or a digit.

    Attributes:
        kind: a name from `KINDS`.
        colour: a name from `COLOURS`.
        x: centre, pixels from the left.
        y: centre, pixels from the top.
        size: diameter in pixels.
        tilt: rotation in radians.
    """

    kind: str
    colour: str
    x: float
    y: float
    size: float
    tilt: float

    @property
    def is_digit(self) -> bool:
        """Whether this is the scene's digit rather than an object."""
        return self.kind in DIGITS


@dataclass(frozen=True)
class Scene:
    """All items of one image; at most one of them is a digit, and it comes last."""

    items: tuple[Item, ...]

    @property
    def objects(self) -> tuple[Item, ...]:
        """The items that are shapes."""
        return tuple(item for item in self.items if not item.is_digit)

    @property
    def digit(self) -> Item | None:
        """The digit, if the scene shows one."""
        return next((item for item in self.items if item.is_digit), None)


def _pick(rng: np.random.Generator, names: tuple[str, ...], count: int, pool: int) -> list[str]:
    """`count` names drawn from a random pool of `pool` distinct ones; a small pool repeats."""
    chosen = rng.permutation(len(names))[:pool]
    return [names[int(chosen[int(i)])] for i in rng.integers(0, pool, size=count)]


def _looks(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Kinds and colours of `count` objects; about half of the scenes repeat a shape or a colour."""
    colours = tuple(COLOURS)
    if count > 1 and rng.random() < REPEAT_SHARE:
        pools = (int(rng.integers(1, 3)), 7)
        shape_pool, colour_pool = pools if rng.random() < 0.5 else pools[::-1]
        return list(
            zip(
                _pick(rng, SHAPES, count, shape_pool),
                _pick(rng, colours, count, colour_pool),
                strict=True,
            )
        )
    shapes = [SHAPES[int(i)] for i in rng.permutation(len(SHAPES))[:count]]
    return list(zip(shapes, (colours[int(i)] for i in rng.permutation(8)[:count]), strict=True))


def _place(rng: np.random.Generator, placed: list[Item], size: float) -> tuple[float, float] | None:
    """A centre where an item of this size touches no other one, or `None` after many tries."""
    margin = size * 0.55
    for _ in range(40):
        x, y = (float(v) for v in rng.uniform(margin, CANVAS - margin, size=2))
        if all(
            math.hypot(x - other.x, y - other.y) > 0.56 * (size + other.size) + 2.0
            for other in placed
        ):
            return x, y
    return None


def sample_scene(rng: np.random.Generator, min_objects: int = 1) -> Scene:
    """Draw a scene with `min_objects` to 4 objects and, in half of the cases, one digit.

    The digit's colour is used by no object, so a question by colour never means the digit.
    """
    looks = _looks(rng, int(rng.integers(min_objects, 5)))
    if rng.random() < DIGIT_SHARE:
        free = [name for name in COLOURS if name not in {colour for _, colour in looks}]
        looks.append((DIGITS[int(rng.integers(10))], free[int(rng.integers(len(free)))]))
    items: list[Item] = []
    for kind, colour in looks:
        size = float(rng.uniform(MIN_SIZE, MAX_SIZE))
        if kind in DIGITS:
            size = max(size, 20.0)
        spot = _place(rng, items, size)
        if spot is not None:
            tilt = float(rng.uniform(-MAX_TILT, MAX_TILT))
            items.append(Item(kind, colour, spot[0], spot[1], size, tilt))
    return Scene(tuple(items))
