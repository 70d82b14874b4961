"""PaliGemma and Gemma 3: SigLIP towers, pictures that see both ways in the language model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import (
    BOS,
    END,
    HEADS,
    IMAGE,
    PATCH,
    START,
    VOCABULARY,
    WIDTH,
    siglip,
    text,
)
from tests.families.scenes import Image, Prompt, Text

SIDE = 48
PATCHES = (SIDE // PATCH) ** 2
POOL = 2
UNITS = PATCHES // POOL**2
WINDOW = 12
SIZES = ((SIDE, SIDE), (SIDE, SIDE))
TYPES = ["sliding_attention", "full_attention"] * 2


def _stacked(prompts: list[Prompt]) -> dict[str, Tensor]:
    shown = [scenes.pixels(image) for image in scenes.images(prompts)]
    return {"pixel_values": torch.stack(shown)} if shown else {}


class Gemma3(Case):
    """Means of 2x2 patches, sliding and full layers in turn."""

    def config(self) -> Any:
        from transformers import Gemma3Config

        language = text(
            "gemma3_text",
            head_dim=WIDTH // HEADS,
            query_pre_attn_scalar=WIDTH // HEADS,
            layer_types=list(TYPES),
            sliding_window=WINDOW,
        )
        return Gemma3Config(
            vision_config=siglip(SIDE),
            text_config=language,
            mm_tokens_per_image=UNITS,
            image_token_index=IMAGE,
            boi_token_index=START,
            eoi_token_index=END,
        )

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [START, *[IMAGE] * UNITS, END]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        return {"token_type_ids": (ids == IMAGE).long(), **_stacked(prompts)}


class PaliGemma(Case):
    """A place for every patch; the whole prompt is a prefix that sees both ways."""

    def config(self) -> Any:
        from transformers import PaliGemmaConfig

        return PaliGemmaConfig(
            vision_config=siglip(SIDE, projection_dim=WIDTH),
            text_config=text("gemma", head_dim=WIDTH // HEADS),
            image_token_index=IMAGE,
            projection_dim=WIDTH,
            hidden_size=WIDTH,
            vocab_size=VOCABULARY,
        )

    def arranged(self, prompt: Prompt) -> Prompt:
        """Pictures first, as the processor puts them."""
        return tuple(sorted(prompt, key=lambda part: isinstance(part, Text)))

    def ids(self, prompt: Prompt) -> list[int]:
        """The start token stands behind the pictures."""
        row = super().ids(prompt)[1:]
        pictures = row.count(IMAGE)
        return [*row[:pictures], BOS, *row[pictures:]]

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [IMAGE] * PATCHES

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        return {"token_type_ids": torch.zeros_like(ids), **_stacked(prompts)}


CASES = (
    Gemma3("gemma3", "Gemma3ForConditionalGeneration", SIZES),
    PaliGemma("paligemma", "PaliGemmaForConditionalGeneration", SIZES),
)
