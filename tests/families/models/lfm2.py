"""LFM2-VL: a SigLIP 2 tower for padded patches, 2x2 a place, and an LLM with convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import END, IMAGE, PATCH, START, text, tower
from tests.families.scenes import Image, Prompt

FACTOR, POSITIONS = 2, 16
OVERVIEW, TILE = 9, 10
UNIT = PATCH * FACTOR
WIDEST, CUT = 48, 32


@dataclass(frozen=True, eq=False)
class Lfm2Vl(Case):
    """A convolution in front of each layer with attention; wide pictures in tiles."""

    sizes: tuple[tuple[int, int], tuple[int, int]] = ((48, 32), (32, 64))

    def config(self) -> Any:
        from transformers import Lfm2VlConfig

        language = text(
            "lfm2",
            layer_types=["conv", "full_attention"] * 2,
            conv_L_cache=3,
            block_auto_adjust_ff_dim=False,
        )
        return Lfm2VlConfig(
            vision_config=tower(
                "siglip2_vision_model", num_patches=POSITIONS, vision_use_head=False
            ),
            text_config=language,
            image_token_id=IMAGE,
            downsample_factor=FACTOR,
            projector_hidden_size=40,
        )

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        *tiles, whole = [
            [IMAGE] * (one.height // UNIT * (one.width // UNIT)) for one in pieces(image)
        ]
        row = [mark for number, tile in enumerate(tiles) for mark in (TILE + number, *tile)]
        return [START, *row, *[OVERVIEW] * bool(tiles), *whole, END]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        images = [one for image in scenes.images(prompts) for one in pieces(image)]
        if not images:
            return {}
        shapes = torch.tensor([[one.height // PATCH, one.width // PATCH] for one in images])
        longest = int(shapes.prod(-1).max())
        pixels = torch.zeros(len(images), longest, 3 * PATCH * PATCH, dtype=torch.float64)
        mask = torch.zeros(len(images), longest, dtype=torch.int32)
        for number, image in enumerate(images):
            rows = scenes.pixels(image).reshape(-1, 3 * PATCH * PATCH)
            pixels[number, : len(rows)], mask[number, : len(rows)] = rows, 1
        return {"pixel_values": pixels, "pixel_attention_mask": mask, "spatial_shapes": shapes}


def pieces(image: Image) -> list[Image]:
    """What the tower sees of a picture: wide ones as tiles, and smaller behind these."""
    if image.width <= WIDEST:
        return [image]
    count = image.width // CUT
    tiles = [Image(image.height, CUT, 10 * image.seed + number + 1) for number in range(count)]
    return [*tiles, Image(image.height // 2, image.width // 2, 10 * image.seed)]


CASES = (Lfm2Vl("lfm2_vl", "Lfm2VlForConditionalGeneration"),)
