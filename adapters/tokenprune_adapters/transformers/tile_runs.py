"""Which tiles are of one picture, where a model's arguments tell tiles only: read from the prompts.

Every function here gets the token ids of one prompt, and where each of its tiles begins and ends.
It tells the tiles that begin a picture.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

Span = tuple[int, int]
Begins = Callable[[Tensor, Sequence[Span]], list[bool]]


def without_gap(ids: Tensor, tiles: Sequence[Span]) -> list[bool]:
    """Tiles of a picture follow each other; pictures have text in between."""
    return [at == 0 or tiles[at - 1][1] != start for at, (start, _) in enumerate(tiles)]


def between_marks(ids: Tensor, tiles: Sequence[Span]) -> list[bool]:
    """A mark and a name stand in front of every tile, a further mark behind the last of a picture.

    So one mark parts the tiles of a picture, and two or more part pictures.
    """
    found, end = [], 0
    for start, behind in tiles:
        mark = ids[start - 2] if start >= 2 else None
        between = 0 if mark is None else int((ids[end:start] == mark).sum())
        found.append(end == 0 or between != 1)
        end = behind
    return found


def one_between(ids: Tensor, tiles: Sequence[Span]) -> list[bool]:
    """One mark stands between the tiles of a picture, and two or more between pictures."""
    return [at == 0 or tiles[at - 1][1] + 1 != start for at, (start, _) in enumerate(tiles)]


def in_fives(ids: Tensor, tiles: Sequence[Span]) -> list[bool]:
    """The quarters of a picture and its whole, with one mark between, as between any two pictures.

    So tiles of a run are pictures unless they can be told off in fives.
    """
    starts = [at for at, new in enumerate(one_between(ids, tiles)) if new]
    runs = [last - first for first, last in pairwise([*starts, len(tiles)])]
    return [at % (1 if run % 5 else 5) == 0 for run in runs for at in range(run)]


def opened_by_mark(ids: Tensor, tiles: Sequence[Span]) -> list[bool]:
    """One mark stands in front of every picture's first tile, another in front of its others."""
    marks = [int(ids[start - 1]) if start else None for start, _ in tiles]
    return [mark == marks[0] for mark in marks]


def closed_by_mark(between: int) -> Begins:
    """A mark stands behind every picture, and nowhere in it.

    Args:
        between: tokens between a picture's last tile and the mark.
    """

    def begins(ids: Tensor, tiles: Sequence[Span]) -> list[bool]:
        ends = [0, *(behind for _, behind in tiles)]
        closing = ends[-1] + between
        mark = ids[closing] if closing < len(ids) else None
        gaps = [ids[end:start] for end, (start, _) in zip(ends, tiles, strict=False)]
        return [at == 0 or mark is None or bool((gap == mark).any()) for at, gap in enumerate(gaps)]

    return begins


def tiles_of(begins: Begins, prompts: Tensor, placeholder: int, units: Sequence[int]) -> list[int]:
    """Tiles of every picture, in order; each tile by itself where the prompts don't fit them.

    Args:
        begins: tells which tiles begin a picture.
        prompts: `[B, T]`, beams of a prompt in rows of their own.
        placeholder: id of what stands for a visual token.
        units: placeholders of each tile.
    """
    places = [(ids == placeholder).nonzero()[:, 0].tolist() for ids in prompts.cpu()]
    total, alone = sum(map(len, places)), [1] * len(units)
    copies = total // sum(units) if units and total % sum(units) == 0 else 0
    if not copies or len(places) % copies:
        return alone
    waiting, counts = deque(units), list[int]()
    for ids, mine in zip(prompts[::copies].cpu(), places[::copies], strict=True):
        tiles, at = list[Span](), 0
        while at < len(mine) and waiting:
            last = at + waiting.popleft() - 1
            if last >= len(mine):
                return alone
            tiles.append((mine[at], mine[last] + 1))
            at = last + 1
        if at != len(mine):
            return alone
        for new in begins(ids, tiles):
            if new:
                counts.append(0)
            counts[-1] += 1
    return alone if waiting else counts
