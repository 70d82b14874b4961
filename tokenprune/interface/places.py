"""Where the prompt shows a picture: its units, and the placeholders around them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from tokenprune.interface.sites import Grid

Span = tuple[int, int]
"""Placeholders of a picture from the first up to the second, counted from its own first one."""


@dataclass(frozen=True)
class Places:
    """The placeholders of one image or clip, in prompt order.

    A *unit* is what becomes one token of the LLM. Units stand in raster order of their grid; what
    stands between them is no part of the picture and never offered to a strategy.

    Attributes:
        grid: units (t, h, w).
        others: placeholders that show no unit, by their number within the picture: a separator
            with the places of the row that it ends, which it leaves with; None for a token that
            never leaves, such as a class token.
        sources: `[units]` int64, for every unit its number among the units of all pieces (images,
            tiles, crops, frames) that the tower saw for the call; None if the call's pictures show
            the units of whole pieces, one after the other.
        blended: whether a unit shows a mean of the tower's units that others show too, so that it
            can't be told which of them are left.
        parts: rows and columns of the maps in which the units stand one after the other, where
            these share no grid and units stand in a line.
        tiles: in how many pieces the tower saw the picture, its overview included; None for one a
            frame.
        overview: which of these pieces shows the picture whole.
    """

    grid: Grid
    others: Mapping[int, Span | None] = field(default_factory=dict)
    sources: Tensor | None = field(default=None, compare=False)
    blended: bool = False
    parts: tuple[tuple[int, int], ...] = ()
    tiles: int | None = None
    overview: int = 0

    @classmethod
    def of_tiles(cls, tiles: Sequence[Places], overview: int = 0) -> Places:
        """A picture whose tiles were taken for pictures; its units stand in a line, tile by tile.

        Args:
            tiles: without separators, all of them the units of whole pieces.
            overview: which of them shows the picture whole.
        """
        if len(tiles) == 1:
            return tiles[0]
        return cls(
            (1, 1, sum(tile.units for tile in tiles)),
            parts=tuple(tile.grid[1:] for tile in tiles),
            tiles=len(tiles),
            overview=range(len(tiles))[overview],
        )

    @property
    def pieces(self) -> int:
        """In how many pieces the tower saw the picture."""
        return self.grid[0] if self.tiles is None else self.tiles

    @property
    def units(self) -> int:
        """Units of the picture."""
        return math.prod(self.grid)

    @property
    def count(self) -> int:
        """Placeholders of the picture."""
        return self.units + len(self.others)

    def fixed(self) -> Places:
        """The same placeholders, of which the separators never leave."""
        return replace(self, others=dict.fromkeys(self.others))
