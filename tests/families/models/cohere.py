"""Aya Vision and Cohere2 Vision: tiles of a SigLIP tower, pixels shuffled inside the projector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.families.case import Case
from tests.families.models.common import BREAK, END, IMAGE, START, WIDTH, siglip, text
from tests.families.models.shuffled import (
    MERGE,
    SIDE,
    SIZES,
    TILE,
    UNITS,
    WHOLE,
    parts,
    stack,
    tiles,
)
from tests.families.scenes import Image, Prompt

WINDOW = 12


def language() -> dict[str, Any]:
    """Layers with windows and rotation, and layers with neither."""
    types = ["sliding_attention", "full_attention"] * 2
    return text("cohere2", sliding_window=WINDOW, layer_types=types)


class Stacked(Case):
    """Tiles flat over the batch, the overview behind the others."""

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        shown = [stack(part) for prompt in prompts for part in parts(prompt)]
        return {"pixel_values": torch.cat(shown)} if shown else {}


class AyaVision(Stacked):
    """Names in front of tiles."""

    def config(self) -> Any:
        from transformers import AyaVisionConfig

        return AyaVisionConfig(
            vision_config=siglip(SIDE),
            text_config=language(),
            image_token_index=IMAGE,
            downsample_factor=MERGE,
            alignment_intermediate_size=4 * WIDTH,
        )

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        row = [START]
        for tag in [*range(TILE, TILE + tiles(image) - 1), WHOLE]:
            row += [tag, *[IMAGE] * UNITS]
        return [*row, END]


class Cohere2Vision(Stacked):
    """Line breaks behind tiles."""

    def config(self) -> Any:
        from transformers import Cohere2VisionConfig

        return Cohere2VisionConfig(
            vision_config=siglip(SIDE),
            text_config=language(),
            image_token_id=IMAGE,
            downsample_factor=MERGE,
            alignment_intermediate_size=4 * WIDTH,
        )

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [START, *[*[IMAGE] * UNITS, BREAK] * tiles(image), END]


CASES = (
    AyaVision("aya_vision", "AyaVisionForConditionalGeneration", SIZES),
    Cohere2Vision("cohere2_vision", "Cohere2VisionForConditionalGeneration", SIZES),
)
