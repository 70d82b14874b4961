"""Several maps of units as frames of one grid, for strategies that ask for places on a grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.interface.sites import Grid
from tokenprune.interface.tokens import grid_positions
from tokenprune.interface.trace import Shapes


@dataclass(frozen=True)
class Maps:
    """Maps whose units are counted in a line, one map behind the other.

    Attributes:
        shapes: rows and columns of each.
    """

    shapes: Shapes

    @property
    def grid(self) -> Grid:
        """Each map as a frame, as high and as wide as the largest; parts of it may hold no unit."""
        rows, columns = zip(*self.shapes, strict=True)
        return len(self.shapes), max(rows), max(columns)

    def raster(self, line: Tensor) -> Tensor:
        """Places on `grid` of units that are counted in a line, int64 of any shape."""
        if self._even:
            return line
        _, height, width = self.grid
        first, columns = self._told(line.device)
        of = torch.searchsorted(first, line.contiguous(), right=True) - 1
        inside, wide = line - first[of], columns[of]
        return (of * height + inside // wide) * width + inside % wide

    def line(self, raster: Tensor) -> Tensor:
        """The way back from places on `grid` that hold a unit."""
        if self._even:
            return raster
        of, row, column = grid_positions(self.grid, raster).unbind(-1)
        first, columns = self._told(raster.device)
        return first[of] + row * columns[of] + column

    @property
    def _even(self) -> bool:
        """Whether all maps have one size, so that the line runs through the grid."""
        return len(set(self.shapes)) == 1

    def _told(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Number of each map's first unit, and its columns."""
        shapes = torch.tensor(self.shapes, device=device)
        counts = shapes.prod(dim=1)
        return torch.cumsum(counts, 0) - counts, shapes[:, 1]
