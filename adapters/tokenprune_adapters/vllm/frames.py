"""Plans on clips of LLaVA-NeXT-Video and -OneVision: frames of one size, pooled."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor

from tokenprune.errors import BudgetError
from tokenprune.integrations import count, select
from tokenprune.interface.serving import ServedPicture
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

#: Lengths in frames of the clips that are told of.
EXAMPLES = (8, 32)


@dataclass(frozen=True)
class ServedFrames(ServedPlan):
    """A plan on a model that shows a clip's frames one behind the other.

    Attributes:
        side: rows and columns of the units of a frame.
        pixels: side of a frame.
        newlines: tokens behind a clip that stay.
    """

    side: int
    pixels: int
    newlines: int

    def left(self, frames: int) -> int:
        """Tokens that are left of a clip of so many frames, newlines included.

        Raises:
            ValueError: a budget asks for more tokens than the clip has.
        """
        try:
            return count((frames, self.side, self.side), self.plan) + self.newlines
        except BudgetError as error:  # the server answers the request with it
            raise ValueError(str(error)) from error

    def kept(self, features: Tensor) -> Tensor:
        """What is left of the features `[L, d]` of a clip, `[left(frames), d]`."""
        units = features[: len(features) - self.newlines]
        grid = (len(units) // self.side**2, self.side, self.side)
        rows, _ = ordered(select(units[None], grid, self.plan, used=0))
        return torch.cat((rows.to(features.dtype), features[len(units) :]))

    def pictures(self) -> list[ServedPicture]:
        """Clips of some lengths, since the model takes no pictures."""
        return require_some(self.lengths(), self.plan, (EXAMPLES[-1], self.side, self.side))

    def lengths(self) -> list[ServedPicture]:
        """The same, also where a budget can't be reached."""
        rows = []
        for frames in EXAMPLES:
            left = left_of((frames, self.side, self.side), self.plan)
            size = f"{frames} frames, {self.pixels} x {self.pixels}"
            dense = frames * self.side**2 + self.newlines
            rows.append(ServedPicture(size, dense, None if left is None else left + self.newlines))
        return rows


def next_video(config: Any, plan: Plan) -> ServedFrames:
    """The plan on a LLaVA-NeXT-Video, whose clips alone vLLM takes, checked.

    Raises:
        PlanError: the plan can't be served, with the reason.
        BudgetError: a budget can't be reached.
        SignalError: a strategy reads signals.
    """
    check_plan(plan, "compact")
    check_behind(plan)
    return frames(config, plan, config.spatial_pool_stride, 0)


def frames(config: Any, plan: Plan, stride: int, newlines: int) -> ServedFrames:
    """A checked plan on the clips of a model.

    Args:
        config: of the model.
        plan: the plan.
        stride: patches along the side of what becomes a unit.
        newlines: tokens behind a clip.
    """
    vision = config.vision_config
    side = ceil(vision.image_size // vision.patch_size / stride)
    return ServedFrames(plan, cached(config), side, vision.image_size, newlines)
