"""Plans on pictures of LLaVA-NeXT, -OneVision and Granite 4 Vision.

A stitched map of tiles, with newlines that stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.errors import PlanError
from tokenprune.integrations import count, select
from tokenprune.interface.places import Places
from tokenprune.interface.serving import ServedPicture
from tokenprune.plan import Plan
from tokenprune_adapters.transformers.granite4_vision import downsampled
from tokenprune_adapters.transformers.picture_places import Read, tiled
from tokenprune_adapters.vllm.frames import ServedFrames, frames
from tokenprune_adapters.vllm.served import (
    ServedPlan,
    cached,
    check_behind,
    check_plan,
    left_of,
    require_some,
)

Size = tuple[int, int]
"""Height and width in pixels."""

CORES: Mapping[str, tuple[str, Read]] = {
    "granite4_vision": ("Granite4VisionModel", downsampled),
    "llava_next": ("LlavaNextModel", tiled),
    "llava_onevision": ("LlavaOnevisionModel", tiled),
}
"""The library's cores by the type of the config, and what tells how their tiles are arranged."""


@dataclass(frozen=True)
class ServedTiles(ServedPlan):
    """A plan on a model that stitches the tiles of a picture.

    Attributes:
        core: the library's model without modules, whose code arranges the tiles.
        arranged: tells how.
        canvases: sizes that a picture may be laid on.
        frames: the plan on clips, where the family has them.
    """

    core: Any
    arranged: Read
    canvases: tuple[Size, ...]
    frames: ServedFrames | None = None
    _places: dict[Size, Places] = field(default_factory=dict, repr=False)

    def places(self, size: Size) -> Places:
        """The placeholders of a picture: units of its tiles, and newlines."""
        if size not in self._places:
            sizes = torch.tensor([size])
            (self._places[size],) = self.arranged(self.core, {"image_sizes": sizes}, ())
        return self._places[size]

    def left(self, size: Size) -> int:
        """Tokens that are left of a picture, newlines included.

        Raises:
            BudgetError: a budget asks for more tokens than the picture has.
        """
        places = self.places(size)
        return count(places.grid, self.plan, tiles=places.pieces) + len(places.others)

    def kept(self, features: Tensor, size: Size) -> Tensor:
        """What is left of the features `[L, d]` of a picture, `[left(size), d]`."""
        places = self.places(size)
        newline = torch.zeros(len(features), dtype=torch.bool, device=features.device)
        newline[list(places.others)] = True
        units, lines = (~newline).nonzero()[:, 0], newline.nonzero()[:, 0]
        chosen = select(features[units][None], places.grid, self.plan, tiles=places.pieces, used=0)
        at = torch.cat((units[chosen.index[0]], lines))
        made = torch.cat((chosen.features[0].to(features.dtype), features[lines]))
        return made[at.argsort(stable=True)]

    @property
    def largest(self) -> Size:
        """The canvas whose picture most is left of; among equals that of most units."""
        units = {size: self.places(size).units for size in self.canvases}
        left = {size: self._left(size) or 0 for size in self.canvases}
        return max(self.canvases, key=lambda size: (left[size], units[size]))

    def pictures(self) -> list[ServedPicture]:
        """A picture of every canvas's size; of those of equal counts the first."""
        found: dict[tuple[int, int | None], ServedPicture] = {}
        for height, width in self.canvases:
            dense, left = self.places((height, width)).count, self._left((height, width))
            found.setdefault((dense, left), ServedPicture(f"{width} x {height}", dense, left))
        rows = sorted(found.values(), key=lambda row: row.dense)
        largest = self.places(self.largest)
        return require_some(rows, self.plan, largest.grid, largest.pieces)

    def clips(self) -> list[ServedPicture]:
        """Clips of some lengths, where the family has them."""
        return self.frames.lengths() if self.frames else []

    def _left(self, size: Size) -> int | None:
        places = self.places(size)
        left = left_of(places.grid, self.plan, places.pieces)
        return None if left is None else left + len(places.others)


def tiles(config: Any, plan: Plan) -> ServedTiles:
    """The plan on a LLaVA-NeXT, a LLaVA-OneVision or a Granite 4 Vision, checked.

    Raises:
        PlanError: the plan can't be served, with the reason.
        BudgetError: a budget can't be reached.
        SignalError: a strategy reads signals.
    """
    check_plan(plan, "compact")
    check_behind(plan)
    if plan.stages and plan.separators != "keep":
        raise PlanError(
            "newlines that leave with the last token of their row make the number of tokens "
            "depend on the picture.",
            where="separators",
            remedy="Write separators: keep.",
        )
    canvases = tuple((height, width) for height, width in config.image_grid_pinpoints)
    clips = frames(config, plan, 2, 1) if config.model_type == "llava_onevision" else None
    core, arranged = _core(config)
    return ServedTiles(plan, cached(config), core, arranged, canvases, clips)


def _core(config: Any) -> tuple[Any, Read]:
    """The library's core with its config and nothing else, and what tells of its tiles."""
    import transformers

    name, arranged = CORES[config.model_type]
    kind = getattr(transformers, name)
    core = kind.__new__(kind)
    nn.Module.__init__(core)
    core.config = config
    if config.model_type == "granite4_vision":  # what the arrangement of its tiles reads besides
        core.downsample_rate, core.layerwise_projectors = config.downsample_rate, ()
    return core, arranged
