"""Plans on pictures and clips of Qwen2.5-VL and Qwen3-VL: grids of merged tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt, prod
from typing import Any

import torch
from torch import Tensor

from tokenprune.errors import BudgetError
from tokenprune.integrations import PrunedPackedEncoder, count, select
from tokenprune.interface.serving import ServedPicture
from tokenprune.interface.sites import Grid
from tokenprune.plan import Plan
from tokenprune_adapters.vllm.inside_grids import inside
from tokenprune_adapters.vllm.served import ServedPlan, cached, check_behind, check_plan

#: Sizes of the pictures that are told of, in merged tokens (high, wide).
EXAMPLES = ((8, 8), (12, 12), (24, 24), (36, 48))

#: Types of the configs of models whose clips aren't served.
WITHOUT_CLIPS = (
    *("glm4v", "glm4v_moe", "glm_ocr", "paddleocr_vl"),
    *("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"),
)

#: Clips that are told of, in merged tokens (frames, high, wide).
CLIPS = ((8, 12, 12), (16, 24, 24))


@dataclass(frozen=True)
class ServedGrids(ServedPlan):
    """A plan on a model whose tower sees every picture at its own size.

    Attributes:
        unit: side of the square of pixels that becomes one token.
        merge: patches along that side.
        frames: how many frames of a clip become one; 0 where the family's clips aren't served.
        numbers: of a patch's pixels.
        inside: the plan in a tower without weights, if it acts inside the tower.
    """

    unit: int
    merge: int
    frames: int
    numbers: int
    inside: PrunedPackedEncoder | None = None

    def merged(self, patches: Sequence[int]) -> Grid:
        """Merged tokens of a patch grid (t, h, w)."""
        frames, height, width = (int(side) for side in patches)
        return (frames, height // self.merge, width // self.merge)

    def fits(self, patches: Sequence[int], shape: Sequence[int]) -> bool:
        """Whether pixels `[R, ...]` are those of whole tokens of a patch grid (t, h, w)."""
        rows, *pixels = shape
        whole = not any(int(side) % self.merge for side in patches[1:])
        return whole and rows == prod(patches) and prod(pixels) == self.numbers

    def left(self, patches: Sequence[int]) -> int:
        """Tokens that are left of a picture or a clip of a patch grid (t, h, w).

        Raises:
            BudgetError: a budget asks for more tokens than the picture has.
        """
        return self._count(self.merged(patches))

    def _count(self, grid: Grid) -> int:
        return count(grid, self.plan) if self.inside is None else self.inside.count(grid)

    def _left(self, grid: Grid) -> int | None:
        """Tokens that are left of merged tokens (t, h, w); None where a budget doesn't fit."""
        try:
            return self._count(grid)
        except BudgetError:
            return None

    def most(self, tokens: int, frames: int, words: int) -> int:
        """Places of the clip that takes most of them, of clips of so many tokens.

        Args:
            tokens: without the plan.
            frames: how many a clip may have.
            words: around each of them.
        """
        found = []
        for t in sorted({min(2**power, frames) for power in range(frames.bit_length() + 1)}):
            high = max(isqrt(tokens // t), 1)
            left = self._left((t, high, max(tokens // t // high, 1)))
            found += [] if left is None else [left + t * words]
        return max(found, default=0)

    def kept(self, features: Tensor, patches: Sequence[int], width: int) -> tuple[Tensor, Tensor]:
        """What is left of a picture or a clip, in raster order.

        Args:
            features: `[N, d]`, features of other depths behind the first `width`.
            patches: patch grid (t, h, w).
            width: of the features that the LLM gets and methods read.

        Returns:
            Rows `[left(patches), d]`, and the places `[left(patches)]` on the merged grid that
            they hold.
        """
        grid = self.merged(patches)
        chosen = select(features[None, :, :width], grid, self.plan, used=0)
        index, order = chosen.index[0].sort(stable=True)
        first = chosen.features[0][order].to(features.dtype)
        # rows of other depths are those of the places that survivors hold
        return torch.cat((first, features[index, width:]), dim=-1), index

    def pictures(self) -> list[ServedPicture]:
        """Pictures of some sizes that aren't resized."""
        rows = [
            ServedPicture(
                f"{wide * self.unit} x {high * self.unit}", high * wide, self._left((1, high, wide))
            )
            for high, wide in EXAMPLES
        ]
        if all(row.left is None for row in rows):
            self._count((1, *EXAMPLES[-1]))  # says why
        return rows

    def clips(self) -> list[ServedPicture]:
        """Clips of some lengths and sizes, where clips are served."""
        return [
            ServedPicture(
                f"{t * self.frames} frames, {wide * self.unit} x {high * self.unit}",
                t * high * wide,
                self._left((t, high, wide)),
            )
            for t, high, wide in (CLIPS if self.frames else ())
        ]


def grids(config: Any, plan: Plan) -> ServedGrids:
    """The plan on a Qwen-VL, checked.

    Raises:
        PlanError: the plan can't be served, with the reason.
        BudgetError: a budget can't be reached.
        SignalError: a strategy reads the question, or what the tower doesn't have.
        LayerError: a stage names a block that the tower hasn't.
    """
    check_plan(plan, "original")
    acting = inside(config, plan)
    if acting is None:
        check_behind(plan)
    vision = config.vision_config
    merge = vision.spatial_merge_size
    frames = 0 if config.model_type in WITHOUT_CLIPS else vision.temporal_patch_size
    patch = vision.patch_size
    numbers = 3 * getattr(vision, "temporal_patch_size", 1) * patch**2
    return ServedGrids(plan, cached(config), patch * merge, merge, frames, numbers, acting)
