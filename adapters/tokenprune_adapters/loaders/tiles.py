"""Which part of a picture each tile shows, read from a picture that shows its own coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tokenprune.interface.loading import WHOLE, Box

if TYPE_CHECKING:
    from PIL.Image import Image

#: Shades of a channel; a coordinate can't be told finer than that.
SHADES = 255


def coordinates(width: int, height: int) -> Image:
    """A picture whose red is x and whose green is y, from 0 at its left and upper edges on.

    Its blue is full, so that padding around it is told apart.
    """
    from PIL import Image

    across = (np.arange(width) + 0.5) / width
    down = (np.arange(height) + 0.5) / height
    raw = np.zeros((height, width, 3))
    raw[..., 0], raw[..., 1], raw[..., 2] = across[None, :], down[:, None], 1
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


def unrolled(patches: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The tiles `[3, H, W]` whose patches stand side by side in one band, tile by tile.

    Args:
        patches: `[3, side, P * side]`.
        sizes: rows and columns of patches of every tile.
    """
    side, found = patches.shape[1], []
    bands = torch.split(patches, [rows * columns * side for rows, columns in sizes], dim=-1)
    for band, (rows, columns) in zip(bands, sizes, strict=True):
        grid = band.reshape(3, side, rows, columns, side)
        found.append(grid.transpose(1, 2).reshape(3, rows * side, columns * side))
    return found


def seen_box(tile: Image) -> Box:
    """The part that a tile of the picture of coordinates shows.

    Coordinates grow evenly, so the medians of the first and the last column or row, half a pixel
    inside of the tile's edges, say where the edges are; values that a resize overshot don't count.
    Of a tile with padding the box reaches beyond the picture.
    """
    values = np.asarray(tile, dtype=np.float64) / SHADES
    shown = values[..., 2] > 0.5
    across, down = (np.flatnonzero(np.any(shown, axis=axis)) for axis in (0, 1))
    if min(len(across), len(down)) < 2:  # nothing but padding
        return (1.0, 1.0, 1.0, 1.0)
    part = values[down[0] : down[-1] + 1, across[0] : across[-1] + 1]
    x, y = np.median(part[..., 0], axis=0), np.median(part[..., 1], axis=1)
    (left, right), (top, bottom) = _ends(x, across, shown.shape[1]), _ends(y, down, len(shown))
    found = (left, top, right, bottom)
    near = max(abs(one - edge) for one, edge in zip(found, WHOLE, strict=True))
    return WHOLE if near < 0.05 else found


Line = np.ndarray[tuple[int], np.dtype[Any]]


def _ends(values: Line, places: Line, count: int) -> tuple[float, float]:
    """Where a line that grows evenly begins and ends, half a step outside of its values.

    Args:
        values: at some places.
        places: their numbers, in 0..count-1.
        count: places of the whole line.
    """
    slope, start = np.polyfit(places, values, 1)
    first, last = start - slope / 2, start + slope * (count - 0.5)
    return round(float(first), 3), round(float(last), 3)
