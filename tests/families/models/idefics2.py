"""Idefics2: padded pictures, and a resampler that makes a few tokens of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import HEADS, IMAGE, PATCH, START, WIDTH, text, tower
from tests.families.scenes import Image, Prompt

SIDE, UNITS = 48, 6
SIZES = ((4 * PATCH, SIDE), (SIDE, 2 * SIDE))


def tiles(image: Image) -> list[Image]:
    """The quarters of a wide picture and its whole, as its processor has them if told to split."""
    if image.width <= SIDE:
        return [image]
    small = (4 * PATCH, SIDE)
    return [Image(*small, 10 * image.seed + at) for at in range(5)]


class Idefics2(Case):
    """Pictures of each prompt in a row of their own, one mark between those that touch."""

    def config(self) -> Any:
        from transformers import Idefics2Config

        return Idefics2Config(
            vision_config=tower(image_size=SIDE),
            perceiver_config={
                "hidden_size": WIDTH,
                "resampler_n_latents": UNITS,
                "resampler_depth": 2,
                "resampler_n_heads": HEADS,
                "resampler_head_dim": WIDTH // HEADS,
                "num_key_value_heads": 2,
            },
            text_config=text("mistral", sliding_window=None),
            image_token_id=IMAGE,
        )

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [*(START, *[IMAGE] * UNITS) * len(tiles(image)), START]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        rows = [[tile for one in scenes.images([row]) for tile in tiles(one)] for row in prompts]
        shown = [tile for row in rows for tile in row]
        if not shown:
            return {}
        high, wide = max(one.height for one in shown), max(one.width for one in shown)
        shape = (len(rows), max(map(len, rows)))
        pixels = torch.zeros(*shape, 3, high, wide, dtype=torch.float64)
        mask = torch.zeros(*shape, high, wide, dtype=torch.long)
        for number, row in enumerate(rows):
            for place, tile in enumerate(row):
                pixels[number, place, :, : tile.height, : tile.width] = scenes.pixels(tile)
                mask[number, place, : tile.height, : tile.width] = 1
        return {"pixel_values": pixels, "pixel_attention_mask": mask}


CASES = (Idefics2("idefics2", "Idefics2ForConditionalGeneration", SIZES),)
