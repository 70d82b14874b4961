"""Detail scenes to pixels, by stamps that are drawn once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tokenprune.reference.detail_scene import DETAIL_CANVAS, DetailScene
from tokenprune.reference.render import Rendered, Textures, Tile, item_tile, paint
from tokenprune.reference.scene import Item

#: Far enough from the edge for any stamp.
_INSIDE = 64.0


@lru_cache(maxsize=4096)
def _stamp(kind: str, size: float, tilt: float, x: float, y: float) -> Tile:
    """Opacity of an item at a part `x`, `y` of a pixel, and where its tile starts from there."""
    opacity, left, top = item_tile(Item(kind, "", _INSIDE + x, _INSIDE + y, size, tilt))
    return opacity, left - int(_INSIDE), top - int(_INSIDE)


def detail_tile(item: Item) -> Tile:
    """Opacity of one item, and where its tile lies on the canvas."""
    opacity, left, top = _stamp(item.kind, item.size, item.tilt, item.x % 1.0, item.y % 1.0)
    return opacity, int(item.x) + left, int(item.y) + top


def detail_textures(seed: int, count: int = 96) -> Textures:
    """Fields for backgrounds of this size."""
    return Textures(seed, count, DETAIL_CANVAS)


def render_detail(scene: DetailScene, rng: np.random.Generator, textures: Textures) -> Rendered:
    """Draw a scene over a fresh background."""
    return paint(scene.items, [detail_tile(item) for item in scene.items], rng, textures)
