"""PaddleOCR-VL: patches in raster order, squares of them a place, M-RoPE; no clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import END, HEADS, IMAGE, PATCH, START, WIDTH, text, tower
from tests.families.models.qwen import ROTARY
from tests.families.scenes import Image, Prompt, Video

MERGE = 2
UNIT = PATCH * MERGE


@dataclass(frozen=True, eq=False)
class PaddleOcrVL(Case):
    """A learned grid of 4x4 positions, resampled, and rotary rows beside it."""

    def config(self) -> Any:
        from transformers import PaddleOCRVLConfig

        own = {"head_dim": WIDTH // HEADS, "rope_parameters": dict(ROTARY), "use_bias": True}
        return PaddleOCRVLConfig(
            vision_config=tower(
                "paddleocr_vl_vision", image_size=4 * PATCH, spatial_merge_size=MERGE
            ),
            text_config=text("paddleocr_vl_text", **own),
            image_token_id=IMAGE,
            vision_start_token_id=START,
            vision_end_token_id=END,
            tie_word_embeddings=False,
        )

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [START, *[IMAGE] * ((image.height // UNIT) * (image.width // UNIT)), END]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        kinds, images = {"mm_token_type_ids": (ids == IMAGE).long()}, scenes.images(prompts)
        if not images:
            return kinds
        grids = [[1, image.height // PATCH, image.width // PATCH] for image in images]
        pairs = zip(grids, images, strict=True)
        pixels = torch.cat([self._patches(*grid, image) for grid, image in pairs])
        return {**kinds, "pixel_values": pixels, "image_grid_thw": torch.tensor(grids)}

    def positions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """None: the model itself reads the mask for its positions in three axes."""
        return {}

    def _patches(self, frames: int, height: int, width: int, image: Image) -> Tensor:
        """Random patches `[P, 3, h, w]`: what they show of the picture means nothing here."""
        return scenes.pixels(Video(frames * height * width, PATCH, PATCH, image.seed))


CASES = (PaddleOcrVL("paddleocr_vl", "PaddleOCRVLForConditionalGeneration", ((32, 64), (48, 32))),)
