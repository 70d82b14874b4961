"""Which tiles are of one picture, where a model's arguments tell tiles only: read from the prompts.

Every function here gets the token ids of one prompt, the places of its placeholders that begin a
tile, and how many placeholders a tile has; it tells the tiles that begin a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

Begins = Callable[[Tensor, Sequence[int], int], list[bool]]


def without_gap(ids: Tensor, starts: Sequence[int], units: int) -> list[bool]:
    """Tiles of a picture follow each other; pictures have text in between."""
    ends = [None, *(start + units for start in starts)]
    return [start != end for start, end in zip(starts, ends, strict=False)]


def between_marks(ids: Tensor, starts: Sequence[int], units: int) -> list[bool]:
    """A mark and a name stand in front of every tile, a further mark behind the last of a picture.

    So one mark parts the tiles of a picture, and two or more part pictures.
    """
    ends = [0, *(start + units for start in starts)]
    found = []
    for start, end in zip(starts, ends, strict=False):
        mark = ids[start - 2] if start >= 2 else None
        between = 0 if mark is None else int((ids[end:start] == mark).sum())
        found.append(end == 0 or between != 1)
    return found


def tiles_of(
    begins: Begins, prompts: Tensor, placeholder: int, units: int, tiles: int
) -> list[int]:
    """Tiles of every picture, in order; each tile by itself where the prompts don't fit them.

    Args:
        begins: tells which tiles begin a picture.
        prompts: `[B, T]`, beams of a prompt in rows of their own.
        placeholder: id of what stands for a visual token.
        units: placeholders of a tile.
        tiles: of all pictures.
    """
    found, total = list[list[int]](), 0
    for ids in prompts.cpu():
        starts = (ids == placeholder).nonzero()[:, 0].tolist()[::units]
        sizes = list[int]()
        for new in begins(ids, starts, units):
            if new:
                sizes.append(0)
            sizes[-1] += 1
        found.append(sizes)
        total += len(starts)
    copies = total // tiles if tiles and total % tiles == 0 else 0
    if not copies or len(found) % copies:
        return [1] * tiles
    counts = [size for row in found[::copies] for size in row]
    return counts if sum(counts) == tiles else [1] * tiles
