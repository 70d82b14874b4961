"""Frames of a video side by side in one picture, in reading order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tokenprune.errors import DataError
from tokenprune.interface.sites import Grid

Colour = tuple[int, int, int]


def layout(frames: int) -> tuple[int, int]:
    """Rows and columns of the tiles of so many frames; wider than high."""
    rows = max(1, round(math.sqrt(frames / 1.6)))
    return rows, -(-frames // rows)


def tile_labels(labels: NDArray[np.int64], grid: Grid) -> NDArray[np.int64]:
    """Values of all patches, `[t * h * w]`, where they stand among the tiles; empty ones are -1."""
    frames, height, width = grid
    rows, columns = layout(frames)
    room = np.full((rows * columns, height, width), -1, dtype=np.int64)
    room[:frames] = labels.reshape(grid)
    tiles = room.reshape(rows, columns, height, width).transpose(0, 2, 1, 3)
    return tiles.reshape(rows * height, columns * width)


def tile_pictures(
    pictures: Sequence[Image.Image], grid: Grid, wide: int, empty: Colour
) -> Image.Image:
    """Frames as tiles of one picture about `wide` pixels wide, every patch of whole pixels.

    Raises:
        DataError: there are more or fewer pictures than frames.
    """
    frames, height, width = grid
    if len(pictures) != frames:
        raise DataError(
            f"a video of {frames} frames can't be drawn over {len(pictures)} pictures.",
            where="overlay",
            remedy="Give all of its frames, in order.",
        )
    rows, columns = layout(frames)
    cell = max(4, round(wide / (width * columns)))
    size = (cell * width, cell * height)
    sheet = Image.new("RGB", (columns * size[0], rows * size[1]), empty)
    for number, picture in enumerate(pictures):
        tile = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        sheet.paste(tile, (number % columns * size[0], number // columns * size[1]))
    return sheet


def separate(picture: Image.Image, grid: Grid, colour: Colour) -> Image.Image:
    """The tiles with lines between them; a single frame as it is."""
    rows, columns = layout(grid[0])
    wide, high = picture.width // columns, picture.height // rows
    draw = ImageDraw.Draw(picture)
    for column in range(1, columns):
        draw.rectangle((column * wide - 1, 0, column * wide, picture.height), fill=colour)
    for row in range(1, rows):
        draw.rectangle((0, row * high - 1, picture.width, row * high), fill=colour)
    return picture
