"""Plans on pictures that a tower sees in pieces of one size, whose units stand in a line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenprune.errors import UnsupportedModelError
from tokenprune.interface.serving import ServedPicture
from tokenprune.interface.sites import Grid
from tokenprune.plan import Plan
from tokenprune_adapters.vllm.runs import Runs, ServedRuns
from tokenprune_adapters.vllm.served import (
    cached,
    check_behind,
    check_plan,
    left_of,
    require_some,
)

#: Tiles (wide, high) of the pictures that are told of; several get an overview besides.
EXAMPLES = ((1, 1), (2, 1), (2, 2), (3, 2), (4, 3))


@dataclass(frozen=True)
class ServedPieces(ServedRuns):
    """A plan on a model whose tower sees every picture in pieces of one size.

    Attributes:
        side: rows and columns of the units of a piece.
        pixels: side of a piece.
    """

    side: int
    pixels: int

    def shape(self, runs: Runs) -> tuple[Grid, int]:
        """Units (t, h, w) of a picture and its pieces; the units of several share no grid."""
        pieces = sum(runs) // self.side**2
        return ((1, self.side, self.side) if pieces == 1 else (1, 1, sum(runs))), pieces

    def pictures(self) -> list[ServedPicture]:
        """Pictures of some numbers of tiles."""
        rows = []
        for wide, high in EXAMPLES:
            grid, pieces = self._shown(wide, high)
            left = left_of(grid, self.plan, pieces)
            size = f"{wide * self.pixels} x {high * self.pixels}"
            rows.append(ServedPicture(size, grid[1] * grid[2], left))
        return require_some(rows, self.plan, *self._shown(*EXAMPLES[-1]))

    def _shown(self, wide: int, high: int) -> tuple[Grid, int]:
        tiles = wide * high
        return self.shape([self.side**2 * (tiles + 1 if tiles > 1 else 1)])


def internvl(config: Any, plan: Plan) -> ServedPieces:
    """The plan on an InternVL, checked.

    Raises:
        PlanError: the plan can't be served, with the reason.
        BudgetError: a budget can't be reached.
        SignalError: a strategy reads signals.
        UnsupportedModelError: features that vLLM doesn't read, or pieces that are no squares.
    """
    check_plan(plan, "compact")
    check_behind(plan)
    vision = config.vision_config
    # vLLM reads the last states without the class token, whatever the config says
    for name, wanted in {
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }.items():
        if getattr(config, name) != wanted:
            raise UnsupportedModelError(
                f"vLLM doesn't read features of {getattr(config, name)!r} for this family.",
                where=f"config.{name}",
                remedy=f"Served is {wanted!r}.",
            )
    (high, wide), (patch, _) = vision.image_size, vision.patch_size
    if high != wide:
        raise UnsupportedModelError(
            f"tiles of {wide} x {high} pixels are no squares.",
            where="config.vision_config.image_size",
            remedy="Served are square tiles.",
        )
    side = round(high // patch * config.downsample_ratio)
    return ServedPieces(plan, cached(config), side, high)


def idefics(config: Any, plan: Plan) -> ServedPieces:
    """The plan on an Idefics3 or a SmolVLM, checked.

    Raises:
        PlanError: the plan can't be served, with the reason.
        BudgetError: a budget can't be reached.
        SignalError: a strategy reads signals.
    """
    check_plan(plan, "compact")
    check_behind(plan)
    vision = config.vision_config
    side = vision.image_size // vision.patch_size // config.scale_factor
    return ServedPieces(plan, cached(config), side, vision.image_size)
