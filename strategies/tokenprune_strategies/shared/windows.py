"""Square windows of patches."""

from __future__ import annotations

from math import ceil

from torch import Tensor

from tokenprune.interface.sites import Grid


def windows_of(position: Tensor, grid: Grid, side: int) -> tuple[Tensor, int]:
    """Number of the window that every token stands in, `[B, N]`, and how many windows there are.

    Windows are `side` x `side` patches of one frame; those at the right and lower border are what
    is left over.

    Args:
        position: (t, h, w) of every token, `[B, N, 3]`.
        grid: patch grid (t, h, w).
        side: of a window.
    """
    frames, height, width = grid
    rows, columns = ceil(height / side), ceil(width / side)
    frame, row, column = position.unbind(dim=-1)
    return (frame * rows + row // side) * columns + column // side, frames * rows * columns
