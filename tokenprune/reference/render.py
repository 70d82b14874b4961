"""Scenes to pixels: textured background, anti-aliased items, and which patch shows which item."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tokenprune.reference.scene import CANVAS, COLOURS, DIGITS, PATCH, Item, Scene

Point = tuple[float, float]
Ring = tuple[tuple[Point, ...], int]
#: Opacity of an item `[side, side]` in 0..1, and where on the canvas it lies: left, top.
Tile = tuple[NDArray[np.float32], int, int]

_SUPERSAMPLE = 4
#: How much larger than a picture the fields are that backgrounds are cut from, in pixels.
_SPARE = 48

_GLYPHS = {
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111",
    "3": "11110 00001 00001 01110 00001 00001 11110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "00110 01000 10000 11110 10001 10001 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "9": "01110 10001 10001 01111 00001 00010 01100",
}


@dataclass(frozen=True)
class Rendered:
    """An image and the share of every patch that each item covers.

    Attributes:
        image: `[canvas, canvas, 3]` uint8.
        cover: `[items, patches]` float32 in 0..1, patches in row-major order.
    """

    image: NDArray[np.uint8]
    cover: NDArray[np.float32]


def _polar(radii: Sequence[float], start: float) -> tuple[Point, ...]:
    """Points at equal angles whose distance from the centre cycles through `radii`."""
    step = 2.0 * math.pi / len(radii)
    return tuple(
        (r * math.cos(start + i * step), r * math.sin(start + i * step))
        for i, r in enumerate(radii)
    )


def _heart() -> tuple[Point, ...]:
    """A heart from two lobes and a tip, in the unit square."""
    angles = [i * math.pi / 20 for i in range(40)]
    return tuple(
        (
            math.sin(a) ** 3,
            -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 16,
        )
        for a in angles
    )


def _glyph(digit: str) -> tuple[Ring, ...]:
    """Squares for the lit cells of a 5 x 7 glyph, in the unit square."""
    rings: list[Ring] = []
    cell = 2.0 / 7.0
    for row, bits in enumerate(_GLYPHS[digit].split()):
        for column, bit in enumerate(bits):
            if bit == "1":
                x, y = (column - 2.5) * cell, (row - 3.5) * cell
                rings.append((((x, y), (x + cell, y), (x + cell, y + cell), (x, y + cell)), 255))
    return tuple(rings)


@cache
def _outline(kind: str) -> tuple[Ring, ...]:
    """Polygons of a kind in the unit square; value 255 fills, 0 cuts a hole."""
    if kind in DIGITS:
        return _glyph(kind)
    round_ = _polar([1.0] * 40, 0.0)
    arm = 0.34
    cross = (
        (-arm, -1.0), (arm, -1.0), (arm, -arm), (1.0, -arm), (1.0, arm), (arm, arm),
        (arm, 1.0), (-arm, 1.0), (-arm, arm), (-1.0, arm), (-1.0, -arm), (-arm, -arm),
    )  # fmt: skip
    shapes: dict[str, tuple[Ring, ...]] = {
        "circle": ((round_, 255),),
        "ring": ((round_, 255), (_polar([0.55] * 40, 0.0), 0)),
        "square": (((((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85))), 255),),
        "triangle": ((((0.0, -0.95), (1.0, 0.85), (-1.0, 0.85)), 255),),
        "star": ((_polar([1.05, 0.45] * 5, -math.pi / 2), 255),),
        "cross": ((cross, 255),),
        "diamond": ((((0.0, -1.05), (0.72, 0.0), (0.0, 1.05), (-0.72, 0.0)), 255),),
        "heart": ((_heart(), 255),),
    }
    return shapes[kind]


def item_tile(item: Item) -> Tile:
    """Opacity of one item, `[side, side]` in 0..1, and the tile's left and top on the canvas."""
    reach = int(item.size * 0.75) + 2
    left, top = int(item.x) - reach, int(item.y) - reach
    side = 2 * reach + 1
    tile = Image.new("L", (side * _SUPERSAMPLE, side * _SUPERSAMPLE), 0)
    draw = ImageDraw.Draw(tile)
    cos, sin, radius = math.cos(item.tilt), math.sin(item.tilt), item.size / 2
    for ring, value in _outline(item.kind):
        points = [
            (
                (item.x - left + radius * (cos * x - sin * y)) * _SUPERSAMPLE,
                (item.y - top + radius * (sin * x + cos * y)) * _SUPERSAMPLE,
            )
            for x, y in ring
        ]
        draw.polygon(points, fill=value)
    fine = np.asarray(tile, dtype=np.float32).reshape(side, _SUPERSAMPLE, side, _SUPERSAMPLE)
    return fine.mean(axis=(1, 3)) / 255.0, left, top


def _inside(tile: Tile, canvas: int) -> tuple[slice, slice, NDArray[np.float32]]:
    """The rows and columns of a canvas that a tile lies on, and its part within the canvas."""
    opacity, left, top = tile
    side = len(opacity)
    y0, y1, x0, x1 = max(top, 0), min(top + side, canvas), max(left, 0), min(left + side, canvas)
    return slice(y0, y1), slice(x0, x1), opacity[y0 - top : y1 - top, x0 - left : x1 - left]


def paste(tile: Tile, canvas: int) -> NDArray[np.float32]:
    """A tile on an empty canvas of `canvas` pixels a side, cut off at its edges."""
    rows, columns, opacity = _inside(tile, canvas)
    mask = np.zeros((canvas, canvas), dtype=np.float32)
    mask[rows, columns] = opacity
    return mask


def item_mask(item: Item) -> NDArray[np.float32]:
    """Opacity of one item on the whole canvas, `[112, 112]` in 0..1."""
    return paste(item_tile(item), CANVAS)


@cache
def _averager(grid: int) -> NDArray[np.float32]:
    """Matrix `[G, 8 * G]` that averages the pixels of every patch along one axis."""
    return np.kron(np.eye(grid), np.full(PATCH, 1.0 / PATCH)).astype(np.float32)


def patch_cover(mask: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean opacity in every patch, `[8 * G, 8 * G]` to `[G * G]`."""
    average = _averager(len(mask) // PATCH)
    return np.asarray((average @ mask @ average.T).reshape(-1), dtype=np.float32)


class Textures:
    """A bank of random fields whose power falls with frequency, the stuff of backgrounds.

    Args:
        seed: of the fields.
        count: how many there are.
        canvas: pixels a side of the pictures.
    """

    def __init__(self, seed: int, count: int = 96, canvas: int = CANVAS) -> None:
        self.canvas = canvas
        rng = np.random.default_rng([seed, 7])
        frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(canvas + _SPARE)] * 2))
        frequency[0, 0] = 1.0
        self.fields = np.stack([self._field(rng, frequency) for _ in range(count)])

    @staticmethod
    def _field(rng: np.random.Generator, frequency: NDArray[np.float64]) -> NDArray[np.float32]:
        """One field of zero mean and unit deviation, of the shape of `frequency`."""
        noise = np.fft.fft2(rng.standard_normal(frequency.shape))
        field = np.fft.ifft2(noise / frequency ** rng.uniform(1.1, 1.9)).real
        return np.asarray((field - field.mean()) / field.std(), dtype=np.float32)

    def crop(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """A random, randomly flipped piece of a random field, `[canvas, canvas]`."""
        index, top, left = (int(rng.integers(high)) for high in (len(self.fields), *[_SPARE] * 2))
        piece = self.fields[index, top : top + self.canvas, left : left + self.canvas]
        flips = rng.integers(0, 2, size=2) * 2 - 1
        return np.asarray(piece[:: flips[0], :: flips[1]], dtype=np.float32)


def background(rng: np.random.Generator, textures: Textures) -> NDArray[np.float32]:
    """A muted, textured background, `[canvas, canvas, 3]` in 0..255."""
    shape = (textures.canvas, textures.canvas, 3)
    grey = rng.uniform(80.0, 175.0)
    base = grey + rng.uniform(-28.0, 28.0, size=3)
    tints = rng.uniform(-1.0, 1.0, size=(2, 3)) * 9.0 + rng.uniform(3.0, 11.0, size=(2, 1))
    canvas = np.broadcast_to(base.astype(np.float32), shape).copy()
    for tint in tints.astype(np.float32):
        canvas += textures.crop(rng)[:, :, None] * tint
    canvas += 4.0 * rng.standard_normal(shape, dtype=np.float32)
    return canvas


def paint(
    items: Sequence[Item], tiles: Sequence[Tile], rng: np.random.Generator, textures: Textures
) -> Rendered:
    """Draw items by their tiles over a fresh background."""
    canvas = background(rng, textures)
    cover = np.zeros((len(items), (textures.canvas // PATCH) ** 2), dtype=np.float32)
    for index, (item, tile) in enumerate(zip(items, tiles, strict=True)):
        cover[index] = patch_cover(paste(tile, textures.canvas))
        shade = np.asarray(COLOURS[item.colour], dtype=np.float32) + rng.uniform(-12, 12)
        rows, columns, opacity = _inside(tile, textures.canvas)
        alpha = opacity[:, :, None]
        under = canvas[rows, columns]
        canvas[rows, columns] = under * (1.0 - alpha) + shade.astype(np.float32) * alpha
    return Rendered(np.clip(canvas + 0.5, 0, 255).astype(np.uint8), cover)


def render(scene: Scene, rng: np.random.Generator, textures: Textures) -> Rendered:
    """Draw a scene over a fresh background."""
    return paint(scene.items, [item_tile(item) for item in scene.items], rng, textures)
