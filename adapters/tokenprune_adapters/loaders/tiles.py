"""Which part of a picture each tile shows, read from a picture that shows its own coordinates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from tokenprune.interface.loading import WHOLE, Box

if TYPE_CHECKING:
    from PIL.Image import Image

#: Shades of a channel; a coordinate can't be told finer than that.
SHADES = 255


def coordinates(width: int, height: int) -> Image:
    """A picture whose red is x and whose green is y, from 0 at its left and upper edges on."""
    from PIL import Image

    across = (np.arange(width) + 0.5) / width
    down = (np.arange(height) + 0.5) / height
    raw = np.zeros((height, width, 3))
    raw[..., 0], raw[..., 1] = across[None, :], down[:, None]
    return Image.fromarray((raw * SHADES).round().astype(np.uint8))


def unpatched(patches: Tensor, rows: int, columns: int) -> Tensor:
    """The tile `[3, H, W]` of patches.

    Args:
        patches: `[P, side * side * 3]`, the colours of a pixel side by side, padding at the end.
        rows: of patches.
        columns: of patches.
    """
    side = math.isqrt(patches.shape[-1] // 3)
    grid = patches[: rows * columns].reshape(rows, columns, side, side, 3)
    return grid.permute(4, 0, 2, 1, 3).reshape(3, rows * side, columns * side)


def seen_box(tile: Image) -> Box:
    """The part that a tile of the picture of coordinates shows.

    Coordinates grow evenly, so the medians of the first and the last column or row, half a pixel
    inside of the tile's edges, say where the edges are; values that a resize overshot don't count.
    """
    values = np.asarray(tile, dtype=np.float64) / SHADES
    x, y = np.median(values[..., 0], axis=0), np.median(values[..., 1], axis=1)
    (left, right), (top, bottom) = _ends(x), _ends(y)
    found = (left, top, right, bottom)
    near = max(abs(one - edge) for one, edge in zip(found, WHOLE, strict=True))
    return WHOLE if near < 0.05 else found


def _ends(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
    """Where a line that grows evenly begins and ends, half a step outside of its values."""
    slope, start = np.polyfit(np.arange(len(values)), values, 1)
    first, last = start - slope / 2, start + slope * (len(values) - 0.5)
    return round(float(first), 3), round(float(last), 3)
