"""Plans on pictures that a tower sees in pieces of one size, whose units stand in a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenprune.engine.stages import built
from tokenprune.errors import BudgetError, UnsupportedModelError
from tokenprune.integrations import count_tiled
from tokenprune.integrations.tiled_towers import NARROWER
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.serving import ServedPicture
from tokenprune.interface.sites import Grid, Site
from tokenprune.plan import Plan
from tokenprune_adapters.vllm.intern_tower import VllmInternAdapter
from tokenprune_adapters.vllm.runs import Runs, ServedRuns
from tokenprune_adapters.vllm.served import (
    cached,
    check_plan,
    check_signals,
)
from tokenprune_adapters.vllm.towers import VllmIdeficsAdapter

#: Tiles (wide, high) of the pictures that are told of; several get an overview besides.
EXAMPLES = ((1, 1), (2, 1), (2, 2), (3, 2), (4, 3))


@dataclass(frozen=True)
class ServedPieces(ServedRuns):
    """A plan on a model whose tower sees every picture in pieces of one size.

    Attributes:
        side: rows and columns of the units of a piece.
        pixels: side of a piece.
        used: blocks of the tower that feed the features, where the plan acts in it or reads it;
            None where it doesn't.
    """

    side: int
    pixels: int
    used: int | None = None

    def shape(self, runs: Runs) -> tuple[Grid, int]:
        """Units (t, h, w) of a picture and its pieces; the units of several share no grid."""
        pieces = sum(runs) // self.side**2
        return ((1, self.side, self.side) if pieces == 1 else (1, 1, sum(runs))), pieces

    def fits(self, runs: Runs, shape: Sequence[int]) -> bool:
        """Whether pixels `[tiles, 3, h, w]` are those of the picture's pieces."""
        pieces, *_, high, wide = shape
        return high == wide == self.pixels and pieces * self.side**2 == sum(runs)

    def left(self, runs: Runs) -> int:
        """Tokens that are left of a picture.

        Raises:
            BudgetError: a budget asks for more tokens than the picture has.
        """
        if self.used is None:
            return super().left(runs)
        tile, (_, pieces) = (1, self.side, self.side), self.shape(runs)
        return count_tiled(tile, self.plan, used=self.used, tiles=pieces)

    def pictures(self) -> list[ServedPicture]:
        """Pictures of some numbers of tiles."""
        rows = []
        for wide, high in EXAMPLES:
            tiles = wide * high
            dense = self.side**2 * (tiles + 1 if tiles > 1 else 1)
            size = f"{wide * self.pixels} x {high * self.pixels}"
            rows.append(ServedPicture(size, dense, self._left(dense)))
        if rows[-1].left is None:  # the largest
            self.left([rows[-1].dense])
        return rows

    def _left(self, dense: int) -> int | None:
        try:
            return self.left([dense])
        except BudgetError:
            return None


def internvl(config: Any, plan: Plan) -> ServedPieces:
    """The plan on an InternVL, checked.

    Raises:
        PlanError: the plan can't be served, with the reason.
        BudgetError: a budget can't be reached.
        SignalError: a strategy reads the question, or what the tower doesn't have.
        UnsupportedModelError: features that vLLM doesn't read, or pieces that are no squares.
    """
    check_plan(plan, "compact")
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
    return ServedPieces(
        plan, cached(config), side, high, _followed(config, plan, VllmInternAdapter)
    )


def idefics(config: Any, plan: Plan) -> ServedPieces:
    """The plan on an Idefics3 or a SmolVLM, checked.

    Raises:
        PlanError: the plan can't be served, with the reason.
        BudgetError: a budget can't be reached.
        SignalError: a strategy reads the question, or what the tower doesn't have.
    """
    check_plan(plan, "compact")
    vision = config.vision_config
    side = vision.image_size // vision.patch_size // config.scale_factor
    used = _followed(config, plan, VllmIdeficsAdapter)
    return ServedPieces(plan, cached(config), side, vision.image_size, used)


def _followed(config: Any, plan: Plan, adapter: type[EncoderAdapter]) -> int | None:
    """How many blocks the tower has, if the plan acts in it or reads it.

    Raises:
        SignalError: a strategy reads the question, or what the tower doesn't have.
    """
    used = config.vision_config.num_hidden_layers
    site = Site.behind(used)
    remedy = "Choose a strategy that reads features, or signals of this tower."
    check_signals(plan, adapter.supplies - NARROWER, site, remedy)
    follows = any(one.plan.at == "encoder" or one.strategy.signals(site) for one in built(plan))
    return used if follows else None
