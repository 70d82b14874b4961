"""Where the prompt shows a picture: its units, and the placeholders around them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

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
    """

    grid: Grid
    others: Mapping[int, Span | None] = field(default_factory=dict)

    @property
    def units(self) -> int:
        """Units of the picture."""
        return math.prod(self.grid)

    @property
    def count(self) -> int:
        """Placeholders of the picture."""
        return self.units + len(self.others)
