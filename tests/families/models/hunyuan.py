"""HunYuan-VL: patches in raster order, squares of them a place, newlines and marks, M-RoPE.

Position ids count place, column, row and picture apart. Heads are normed behind the rotation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import END, HEADS, IMAGE, PATCH, START, WIDTH, text, tower
from tests.families.scenes import Image, Prompt, Video

MERGE = 2
UNIT = PATCH * MERGE
AXES = 4
ROTARY = {
    "rope_type": "dynamic",
    "alpha": 10.0,
    "factor": 1.0,
    "rope_theta": 10000.0,
    "mrope_section": [1] * AXES,
}


@dataclass(frozen=True, eq=False)
class HunYuanVL(Case):
    """A learned grid of 4x4 positions, resampled."""

    def config(self) -> Any:
        from transformers import HunYuanVLConfig

        own = {"head_dim": WIDTH // HEADS, "rope_parameters": dict(ROTARY)}
        return HunYuanVLConfig(
            vision_config=tower(
                "hunyuan_vl_vision",
                max_image_size=4 * PATCH,
                spatial_merge_size=MERGE,
                text_hidden_size=WIDTH,
                out_hidden_size=WIDTH,
            ),
            text_config=text("hunyuan_vl_text", **own),
            image_token_id=IMAGE,
            image_start_token_id=START,
            image_end_token_id=END,
            tie_word_embeddings=False,
        )

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        rows, columns = image.height // UNIT, image.width // UNIT
        return [START, *[IMAGE] * (rows * (columns + 1) + 2), END]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        kinds, images = {"mm_token_type_ids": (ids == IMAGE).long()}, scenes.images(prompts)
        if not images:
            return kinds
        grids = [[1, image.height // PATCH, image.width // PATCH] for image in images]
        pairs = zip(grids, images, strict=True)
        pixels = torch.cat([self._patches(*grid, image) for grid, image in pairs])
        return {**kinds, "pixel_values": pixels, "image_grid_thw": torch.tensor(grids)}

    def positions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Given: left to itself the model counts the pictures of all rows of a batch together."""
        grids = iter(inputs.get("image_grid_thw", torch.empty(0, 3)).tolist())
        counted = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        found = counted.expand(AXES, -1, -1).clone()
        for row, ids in enumerate(inputs["input_ids"].tolist()):
            starts = [at for at, one in enumerate(ids) if one == START]
            for number, start in enumerate(starts):
                _, high, wide = next(grids)
                rows, columns = high // MERGE, wide // MERGE
                for place in range(rows * (columns + 1)):
                    at = start + 2 + place  # behind the mark in front of the picture
                    across, down = place % (columns + 1), place // (columns + 1)
                    found[1:, row, at] = torch.tensor([across, down, number])
        return {"position_ids": found}

    def _patches(self, frames: int, height: int, width: int, image: Image) -> Tensor:
        """Random patches `[P, d]`: what they show of the picture means nothing here."""
        return scenes.pixels(Video(frames * height * width, PATCH, PATCH, image.seed)).flatten(1)


CASES = (HunYuanVL("hunyuan_vl", "HunYuanVLForConditionalGeneration", ((32, 64), (48, 32))),)
