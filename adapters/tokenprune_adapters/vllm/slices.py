"""Plans on pictures in pieces of several sizes: an overview in front of slices (MiniCPM-V)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tokenprune.integrations import count, select
from tokenprune.interface.serving import ServedPicture
from tokenprune.interface.sites import Grid
from tokenprune.plan import Plan
from tokenprune_adapters.vllm.runs import ordered
from tokenprune_adapters.vllm.served import (
    ServedPlan,
    cached,
    check_behind,
    check_plan,
    left_of,
    require_some,
)

Pieces = Sequence[Sequence[int]]
"""Rows and columns of units of each piece of a picture."""

#: Pictures that are told of, whose overview stands in front of slices.
EXAMPLES = (((8, 8),), ((7, 9),), ((7, 9), *((8, 10),) * 2), ((8, 8), *((8, 8),) * 9))


@dataclass(frozen=True)
class ServedSlices(ServedPlan):
    """A plan on a model whose tower sees large pictures in pieces.

    Attributes:
        unit: side of the square of pixels that becomes one token.
    """

    unit: int

    def left(self, pieces: Pieces) -> int:
        """Tokens that are left of a picture, without the text between them.

        Raises:
            BudgetError: a budget asks for more tokens than the picture has.
        """
        grid, tiles = _seen(pieces)
        return count(grid, self.plan, tiles=tiles)

    def kept(self, features: Tensor, pieces: Pieces) -> tuple[Tensor, Tensor]:
        """What is left of the features `[N, d]` of a picture.

        Returns:
            Features `[left(pieces), d]`, and `[left(pieces)]` whose places they hold, ascending.
        """
        grid, tiles = _seen(pieces)
        return ordered(select(features[None], grid, self.plan, tiles=tiles, used=0))

    def pictures(self) -> list[ServedPicture]:
        """Pictures in one piece and in several."""
        rows = []
        for pieces in EXAMPLES:
            grid, tiles = _seen(pieces)
            left = left_of(grid, self.plan, tiles)
            rows.append(ServedPicture(self._size(pieces), units(pieces), left))
        grid, tiles = _seen(EXAMPLES[-1])
        return require_some(rows, self.plan, grid, tiles)

    def _size(self, pieces: Pieces) -> str:
        high, wide = (side * self.unit for side in pieces[-1])
        return f"{len(pieces) - 1} slices of {wide} x {high}" if pieces[1:] else f"{wide} x {high}"


def units(pieces: Pieces) -> int:
    """How many units a picture has."""
    return sum(high * wide for high, wide in pieces)


def _seen(pieces: Pieces) -> tuple[Grid, int]:
    """Units (t, h, w), which those of several pieces don't share, and how many pieces."""
    if len(pieces) > 1:
        return (1, 1, units(pieces)), len(pieces)
    return (1, pieces[0][0], pieces[0][1]), 1


def slices(config: Any, plan: Plan) -> ServedSlices:
    """The plan on a MiniCPM-V, checked.

    Raises:
        PlanError: the plan can't be served, with the reason.
        BudgetError: a budget can't be reached.
        SignalError: a strategy reads signals.
    """
    check_plan(plan, "compact")
    check_behind(plan)
    merged = 2 if config.downsample_mode == "4x" else 4
    return ServedSlices(plan, cached(config), config.vision_config.patch_size * merged)
