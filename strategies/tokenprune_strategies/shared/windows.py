"""Square windows of patches."""

from __future__ import annotations

from math import ceil

from torch import Tensor

from tokenprune.interface.sites import Grid


def windows_of(
    position: Tensor, grid: Grid, side: int, *, joined: bool = False
) -> tuple[Tensor, int]:
    """Number of the window that every token stands in, `[B, N]`, and how many windows there are.

    Windows are `side` x `side` patches of one frame; those at the right and lower border are what
    is left over, unless that joins the last whole ones.

    Args:
        position: (t, h, w) of every token, `[B, N, 3]`.
        grid: patch grid (t, h, w).
        side: of a window.
        joined: whether what is left over at the borders joins the last whole windows.
    """
    frames, height, width = grid
    rows, columns = (_windows(length, side, joined=joined) for length in (height, width))
    frame, row, column = position.unbind(dim=-1)
    row, column = (row // side).clamp(max=rows - 1), (column // side).clamp(max=columns - 1)
    return (frame * rows + row) * columns + column, frames * rows * columns


def _windows(length: int, side: int, *, joined: bool) -> int:
    return max(1, length // side) if joined else ceil(length / side)
