"""Clips of the bundled video question answering set: what moves and when, before any pixel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from tokenprune.reference.scene import CANVAS, COLOURS, MAX_TILT, SHAPES, Item, Scene

FRAMES = 8
MAX_OBJECTS = 4
WAYS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "nowhere": (0, 0),
}

MIN_SIZE, MAX_SIZE = 15.0, 22.0
#: Pixels from one frame to the next along the way, and the largest drift across it.
MIN_STEP, MAX_STEP, MAX_DRIFT = 5.0, 8.0, 0.8
#: Share of clips whose objects enter one after the other; in the others some come several times.
STAGGERED_SHARE = 0.65


@dataclass(frozen=True)
class Mover:
    """One object of a clip.

    Attributes:
        item: its look, and its place in the frame in which it is first seen.
        way: a name from `WAYS`, the answer to where it moves.
        step: pixels from one frame to the next, to the right and down.
        shown: for each of the 8 frames, whether it is visible.
    """

    item: Item
    way: str
    step: tuple[float, float]
    shown: tuple[bool, ...]

    @property
    def enters(self) -> tuple[int, ...]:
        """Frames in which it is visible and was not in the frame before."""
        before = (False, *self.shown[:-1])
        return tuple(t for t in range(FRAMES) if self.shown[t] and not before[t])

    def at(self, frame: int) -> Item:
        """The item as it stands in a frame, visible or not."""
        steps = frame - self.enters[0]
        x, y = self.item.x + steps * self.step[0], self.item.y + steps * self.step[1]
        return replace(self.item, x=x, y=y)


@dataclass(frozen=True)
class ClipScene:
    """All objects of one clip, no two of one shape, in the order in which they first appear.

    Attributes:
        movers: the objects.
        staggered: whether they enter in different frames, once each, and are never all visible
            at once (unless there is but one). Otherwise some may go and come again.
    """

    movers: tuple[Mover, ...]
    staggered: bool

    def scene(self, frame: int) -> Scene:
        """What one frame shows."""
        return Scene(tuple(mover.at(frame) for mover in self.movers if mover.shown[frame]))


def _runs(starts: list[int], ends: list[int]) -> tuple[bool, ...]:
    """Visibility that is on from every start to before the end at the same place."""
    pairs = list(zip(starts, ends, strict=True))
    return tuple(any(start <= t < end for start, end in pairs) for t in range(FRAMES))


def _staggered_times(rng: np.random.Generator, count: int) -> list[tuple[bool, ...]]:
    """One visible stretch an object, entries distinct and ascending, never all at once."""
    while True:
        starts = sorted(int(t) for t in rng.permutation(FRAMES - 1)[:count])
        ends = [int(rng.integers(start + 2, FRAMES + 1)) for start in starts]
        times = [_runs([start], [end]) for start, end in zip(starts, ends, strict=True)]
        if count == 1 or not any(all(now) for now in zip(*times, strict=True)):
            return times


def _returning_times(rng: np.random.Generator, count: int) -> list[tuple[bool, ...]]:
    """One to three visible stretches an object, with gaps of a frame or more; ascending entries."""
    times: list[tuple[bool, ...]] = []
    for _ in range(count):
        stretches = int(rng.integers(1, 4))
        while True:
            edges = sorted(int(t) for t in rng.permutation(FRAMES + 1)[: 2 * stretches])
            lengths = [b - a for a, b in pairwise(edges)]
            if stretches > 1 or lengths[0] > 2:
                break
        times.append(_runs(edges[::2], edges[1::2]))
    return sorted(times, key=lambda shown: shown.index(True))


def _sides(low: float, high: float, travel: float) -> tuple[float, float]:
    """Bounds of a start from which `travel` leads to an end between `low` and `high`."""
    return max(low, low - travel), min(high, high - travel)


def _start(
    rng: np.random.Generator, size: float, step: tuple[float, float], shown: tuple[bool, ...]
) -> tuple[float, float]:
    """A place to start from so that the whole visible path lies on the canvas."""
    steps = FRAMES - 1 - shown[::-1].index(True) - shown.index(True)
    margin = size * 0.55
    x, y = (float(rng.uniform(*_sides(margin, CANVAS - margin, steps * along))) for along in step)
    return x, y


def _step(rng: np.random.Generator, way: str) -> tuple[float, float]:
    """Pixels a frame for a way: a straight line, up to a little drift across."""
    dx, dy = WAYS[way]
    if not dx and not dy:
        return 0.0, 0.0
    speed, drift = float(rng.uniform(MIN_STEP, MAX_STEP)), float(rng.uniform(-1, 1)) * MAX_DRIFT
    return (dx * speed, drift) if dx else (drift, dy * speed)


def _clear(mover: Mover, others: list[Mover]) -> bool:
    """Whether it touches no other object in a frame that shows both."""
    for other in others:
        gap = 0.56 * (mover.item.size + other.item.size) + 2.0
        for t in range(FRAMES):
            if mover.shown[t] and other.shown[t]:
                mine, its = mover.at(t), other.at(t)
                if math.hypot(mine.x - its.x, mine.y - its.y) <= gap:
                    return False
    return True


def _looks(rng: np.random.Generator, count: int) -> Iterator[tuple[str, str]]:
    """Distinct shapes, each with any colour."""
    for shape in rng.permutation(len(SHAPES))[:count]:
        yield SHAPES[int(shape)], tuple(COLOURS)[int(rng.integers(len(COLOURS)))]


def _mover(
    rng: np.random.Generator, look: tuple[str, str], shown: tuple[bool, ...], others: list[Mover]
) -> Mover | None:
    """An object with a free path, or `None` after many tries; its way is not drawn again."""
    way = tuple(WAYS)[int(rng.integers(len(WAYS)))]
    for _ in range(40):
        size, step = float(rng.uniform(MIN_SIZE, MAX_SIZE)), _step(rng, way)
        x, y = _start(rng, size, step, shown)
        tilt = float(rng.uniform(-MAX_TILT, MAX_TILT))
        mover = Mover(Item(*look, x, y, size, tilt), way, step, shown)
        if _clear(mover, others):
            return mover
    return None


def sample_clip(rng: np.random.Generator) -> ClipScene:
    """Draw a clip of 8 frames: 1 to 4 objects that enter in turn, or 2 to 3 of which some return.

    A clip without room for one of its objects is drawn anew, so that the number of objects is
    even-handed.
    """
    staggered = bool(rng.random() < STAGGERED_SHARE)
    count = int(rng.integers(1, 1 + MAX_OBJECTS) if staggered else rng.integers(2, MAX_OBJECTS))
    while True:
        times = (_staggered_times if staggered else _returning_times)(rng, count)
        movers: list[Mover] = []
        for look, shown in zip(_looks(rng, count), times, strict=True):
            mover = _mover(rng, look, shown, movers)
            if mover is None:
                break
            movers.append(mover)
        if len(movers) == count:
            return ClipScene(tuple(movers), staggered)
