"""Mistral 3: a Pixtral tower for pictures of any shape, 2x2 patches for one place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import BREAK, END, HEADS, IMAGE, PATCH, WIDTH, text, tower
from tests.families.scenes import Image, Prompt

MERGE, LARGEST = 2, 64
UNIT = PATCH * MERGE


class Mistral3(Case):
    """A text token ends every row of units, another one the picture."""

    def config(self) -> Any:
        from transformers import Mistral3Config

        return Mistral3Config(
            vision_config=tower("pixtral", image_size=LARGEST, head_dim=WIDTH // HEADS),
            text_config=text("mistral", head_dim=WIDTH // HEADS, sliding_window=None),
            image_token_index=IMAGE,
            spatial_merge_size=MERGE,
            vision_feature_layer=-1,
            tie_word_embeddings=False,
        )

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        row = [*[IMAGE] * (image.width // UNIT), BREAK]
        return [*(row * (image.height // UNIT))[:-1], END]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        images = scenes.images(prompts)
        if not images:
            return {}
        highest = max(image.height for image in images)
        widest = max(image.width for image in images)
        pixels = torch.zeros(len(images), 3, highest, widest, dtype=torch.float64)
        for number, image in enumerate(images):
            pixels[number, :, : image.height, : image.width] = scenes.pixels(image)
        sizes = torch.tensor([[image.height, image.width] for image in images])
        return {"pixel_values": pixels, "image_sizes": sizes}


CASES = (Mistral3("mistral3", "Mistral3ForConditionalGeneration", ((32, 64), (48, 32))),)
