"""The user's pictures again, from the pieces that a model sees of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from tokenprune.errors import DataError
from tokenprune.interface.loading import WHOLE, Box, Frames, LoadedMllm, LoadedModel
from tokenprune.interface.trace import ImageTrace, TraceStep

if TYPE_CHECKING:
    from PIL.Image import Image


#: Edges of tiles that are nearer to each other than this share of a picture are one edge (ours).
NEAR = 0.02


@dataclass(frozen=True)
class DrawnView:
    """One look at a picture, such as the whole of it in few tokens, or all of its tiles.

    Attributes:
        picture: what is seen.
        units: `[rows, columns]` number in the trace of the token that shows each part of it.
    """

    picture: Image
    units: NDArray[np.int64]


@dataclass(frozen=True)
class Drawn:
    """A picture, or a video, with what became of its tokens.

    Attributes:
        trace: of all of its tokens.
        views: how the model sees it.
    """

    trace: ImageTrace
    views: Sequence[DrawnView]


def drawn(
    loaded: LoadedModel, pictures: Sequence[Image], images: Sequence[ImageTrace]
) -> list[Drawn]:
    """The pictures of one prompt with their traces.

    Args:
        loaded: the model with its loader's functions.
        pictures: as the user has them, in order; the frames of a video.
        images: the traces of a call about them; a model may see a picture as several.

    Raises:
        DataError: the traces are not those of the pictures.
    """
    clip = isinstance(pictures, Frames)
    if isinstance(loaded, LoadedMllm):
        seen = loaded.seen(pictures)
    else:
        seen = [loaded.picture(picture) for picture in pictures]
    if len(images) == 1 and (clip or 1 < len(pictures) == images[0].grid[0]):
        # where several frames share their tokens, the first of them is seen
        together = -(-len(seen) // images[0].grid[0])
        return [Drawn(images[0], frames_of(seen[::together], images[0].grid))]
    if clip and len(images) == len(seen):
        one = joined(images)
        return [Drawn(one, frames_of(seen, (len(seen), *one.shapes[0])))]
    tiles = [_tiles(loaded, picture) for picture in pictures]
    if len(images) == sum(map(len, tiles)):
        waiting = list(images)
        found = []
        for picture, boxes in zip(seen, tiles, strict=True):
            mine, waiting = waiting[: len(boxes)], waiting[len(boxes) :]
            found.append(Drawn(joined(mine), stitched(picture, mine, boxes)))
        return found
    if len(images) == len(pictures):
        pairs = zip(seen, images, strict=True)
        return [
            Drawn(image, stitched(picture, [image], boxes))
            for (picture, image), boxes in zip(pairs, tiles, strict=True)
        ]
    raise DataError(
        f"{len(pictures)} pictures can't be drawn from what became of {len(images)} pieces.",
        where=loaded.name,
        remedy="Draw one picture, or as many as the model sees frames.",
    )


def _tiles(loaded: LoadedModel, picture: Image) -> Sequence[Box]:
    return loaded.tiles(picture) if isinstance(loaded, LoadedMllm) else [WHOLE]


def frames_of(pictures: Sequence[Image], grid: tuple[int, int, int]) -> list[DrawnView]:
    """Frames of one video, a view each.

    Raises:
        DataError: there are more or fewer pictures than frames.
    """
    frames = grid[0]
    if len(pictures) != frames:
        raise DataError(
            f"a video of {frames} frames can't be drawn over {len(pictures)} pictures.",
            where="overlay",
            remedy="Give all of its frames, in order.",
        )
    units = np.arange(frames * grid[1] * grid[2]).reshape(grid)
    return [DrawnView(picture, numbers) for picture, numbers in zip(pictures, units, strict=True)]


def stitched(picture: Image, images: Sequence[ImageTrace], boxes: Sequence[Box]) -> list[DrawnView]:
    """The views of one picture: a view for each piece that shows all of it, one for all tiles.

    Args:
        picture: whole.
        images: the traces of its pieces, in order; or of the picture, in parts.
        boxes: which part of it each shows; those of a model that stitches tiles by itself don't
            count.
    """
    shapes = [shape for image in images for shape in image.shapes]
    if len(boxes) != len(shapes):
        boxes = [WHOLE] * len(shapes)
    views: list[DrawnView] = []
    tiles: list[tuple[Box, NDArray[np.int64]]] = []
    first = 0
    for (rows, columns), box in zip(shapes, boxes, strict=True):
        units = first + np.arange(rows * columns).reshape(rows, columns)
        first += rows * columns
        if box == WHOLE:
            views.append(DrawnView(picture, units))
        else:
            tiles.append((box, units))
    if not tiles:
        return views
    return [*views, DrawnView(_padded(picture, [box for box, _ in tiles]), _assembled(tiles))]


def _padded(picture: Image, boxes: Sequence[Box]) -> Image:
    """The picture as tiles show it that reach beyond its right and lower edge, black there."""
    right, bottom = max(box[2] for box in boxes), max(box[3] for box in boxes)
    if max(right, bottom) <= 1 + NEAR:
        return picture
    from PIL import Image as Images

    wide, high = round(picture.width * max(right, 1)), round(picture.height * max(bottom, 1))
    canvas = Images.new(picture.mode, (wide, high))
    canvas.paste(picture)
    return canvas


def _assembled(tiles: Sequence[tuple[Box, NDArray[np.int64]]]) -> NDArray[np.int64]:
    """Units of tiles of one grid, where the tiles stand in the picture."""
    lefts = _levels([box[0] for box, _ in tiles])
    tops = _levels([box[1] for box, _ in tiles])
    rows, columns = tiles[0][1].shape
    room = np.full((len(set(tops)) * rows, len(set(lefts)) * columns), -1, dtype=np.int64)
    for left, top, (_, units) in zip(lefts, tops, tiles, strict=True):
        room[top * rows : (top + 1) * rows, left * columns : (left + 1) * columns] = units
    return room


def _levels(edges: Sequence[float]) -> list[int]:
    """Which of the different edges each is, ascending; those that differ by rounding are one."""
    ranked = sorted(edges)
    starts = [ranked[0]]
    starts += [edge for before, edge in pairwise(ranked) if edge - before > NEAR]
    return [sum(edge >= start for start in starts) - 1 for edge in edges]


def joined(images: Sequence[ImageTrace]) -> ImageTrace:
    """The traces of several pieces as one, with the pieces' tokens one after the other."""
    if len(images) == 1:
        return images[0]
    longest = max(images, key=lambda image: len(image.steps))
    units = sum(image.patches for image in images)
    shapes = tuple(shape for image in images for shape in image.shapes)
    steps = [_step(images, number, longest.steps[number]) for number in range(len(longest.steps))]
    return ImageTrace((1, 1, units), tuple(steps), shapes)


def _step(images: Sequence[ImageTrace], number: int, told: TraceStep) -> TraceStep:
    """One step of all pieces; a piece of which nothing was left before stays as it was."""
    slots, anchors, survivors, first = [], [], 0, 0
    for image in images:
        mine = image.steps[: number + 1]
        assignment = mine[-1].assignment if mine else torch.arange(image.patches)
        anchor = mine[-1].anchor if mine else torch.arange(image.patches)
        slots.append(torch.where(assignment < 0, -1, assignment + survivors))
        anchors.append(anchor + first)
        survivors, first = survivors + len(anchor), first + image.patches
    return TraceStep(
        told.site, told.strategy, torch.cat(slots), torch.cat(anchors), stage=told.stage
    )
