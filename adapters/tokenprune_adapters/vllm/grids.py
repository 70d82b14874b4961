"""Plans on Qwen2.5-VL and Qwen3-VL pictures: grids of merged tokens, positions in three axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenprune.integrations import count, select
from tokenprune.interface.serving import ServedPicture
from tokenprune.interface.sites import Grid
from tokenprune.plan import Plan
from tokenprune_adapters.vllm.served import (
    ServedPlan,
    cached,
    check_behind,
    check_plan,
    left_of,
    require_some,
)

#: Sizes of the pictures that are told of, in merged tokens (high, wide).
EXAMPLES = ((8, 8), (12, 12), (24, 24), (36, 48))

#: Numbers up to this square are written exactly in any floating-point type, as two digits.
BASE = 128

#: Columns behind the features that hold row and column of a token, two digits each.
CHANNELS = 4


@dataclass(frozen=True)
class ServedGrids(ServedPlan):
    """A plan on a model whose tower sees every picture at its own size.

    Attributes:
        unit: side of the square of pixels that becomes one token.
        merge: patches along that side.
    """

    unit: int
    merge: int

    def merged(self, patches: Sequence[int]) -> Grid:
        """Merged tokens of a patch grid (t, h, w)."""
        frames, height, width = (int(side) for side in patches)
        return (frames, height // self.merge, width // self.merge)

    def left(self, patches: Sequence[int]) -> int:
        """Tokens that are left of a picture of a patch grid (t, h, w).

        Raises:
            BudgetError: a budget asks for more tokens than the picture has.
        """
        return count(self.merged(patches), self.plan)

    def kept(self, features: Tensor, patches: Sequence[int], width: int) -> Tensor:
        """What is left of a picture, with its places on the grid behind the features.

        Args:
            features: `[N, d]` of one picture, features of other depths behind the first `width`.
            patches: patch grid (t, h, w).
            width: of the features that the LLM gets and methods read.

        Returns:
            `[left(patches), d + CHANNELS]`, in raster order.
        """
        grid = self.merged(patches)
        chosen = select(features[None, :, :width], grid, self.plan, used=0)
        index, order = chosen.index[0].sort(stable=True)
        first = chosen.features[0][order].to(features.dtype)
        # rows of other depths are those of the places that survivors hold
        return torch.cat((first, features[index, width:], written(index, grid, first)), dim=-1)

    def pictures(self) -> list[ServedPicture]:
        """Pictures of some sizes that aren't resized."""
        rows = [
            ServedPicture(
                f"{wide * self.unit} x {high * self.unit}",
                high * wide,
                left_of((1, high, wide), self.plan),
            )
            for high, wide in EXAMPLES
        ]
        return require_some(rows, self.plan, (1, *EXAMPLES[-1]))


def grids(config: Any, plan: Plan) -> ServedGrids:
    """The plan on a Qwen-VL, checked.

    Raises:
        PlanError: the plan can't be served, with the reason.
        BudgetError: a budget can't be reached.
        SignalError: a strategy reads signals.
    """
    check_plan(plan, "original")
    check_behind(plan)
    vision = config.vision_config
    merge = vision.spatial_merge_size
    return ServedGrids(plan, cached(config), vision.patch_size * merge, merge)


def written(index: Tensor, grid: Grid, like: Tensor) -> Tensor:
    """Rows and columns of tokens as numbers that survive half precision, `[K, CHANNELS]`.

    Args:
        index: `[K]` places in raster order.
        grid: merged tokens (1, h, w).
        like: of the dtype and on the device wanted.
    """
    places = (index // grid[2], index % grid[2])
    digits = [part for place in places for part in (place // BASE, place % BASE)]
    return torch.stack(digits, dim=-1).to(like)


def read(channels: Tensor) -> Tensor:
    """Rows and columns `[2, K]` int64 of what `written` made."""
    digits = channels.round().long()
    return torch.stack((digits[:, 0] * BASE + digits[:, 1], digits[:, 2] * BASE + digits[:, 3]))
