"""GOT-OCR 2: a tower of SAM with convolutions behind it, tiles in front of their whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import END, IMAGE, START, WIDTH, generic, text
from tests.families.scenes import Image, Prompt, Video

SIDE = 64
"""Pixels of a tile, each of them a patch: its processor knows one number of tokens only."""
UNITS = (SIDE // 4) ** 2
SIZES = ((SIDE, SIDE), (SIDE, SIDE))
WIDE = Image(SIDE, 2 * SIDE)
"""A picture in two tiles and its whole, as its processor has them if told to cut."""


def tiles(image: Image) -> int:
    """Tiles of a picture; several get its whole, too."""
    count = image.width // SIDE
    return count + 1 if count > 1 else 1


class GotOcr2(Case):
    """Tiles flat over the batch, in front of Qwen2."""

    def config(self) -> Any:
        from transformers import GotOcr2Config

        return GotOcr2Config(
            vision_config={
                "hidden_size": 8,
                "output_channels": WIDTH // 4,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "image_size": SIDE,
                "patch_size": 1,
                "window_size": 5,
                # released ones see everything in some blocks, which takes 0.1 GB for these patches
                "global_attn_indexes": [],
                "mlp_dim": 16,
            },
            text_config=text("qwen2"),
            image_token_index=IMAGE,
            image_seq_length=UNITS,
        )

    def made(self, config: Any, dtype: torch.dtype, attention: str) -> Any:
        """The tower attends in a way of its own; a choice is the LLM's."""
        from transformers import GotOcr2ForConditionalGeneration

        torch.manual_seed(0)
        config.text_config._attn_implementation = attention
        return generic(GotOcr2ForConditionalGeneration(config)).to(dtype)

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [START, *[IMAGE] * UNITS * tiles(image), END]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        shown = scenes.images(prompts)
        if not shown:
            return {}
        made = [scenes.pixels(Video(tiles(one), SIDE, SIDE, one.seed)) for one in shown]
        return {"pixel_values": torch.cat(made)}


CASES = (GotOcr2("got_ocr2", "GotOcr2ForConditionalGeneration", SIZES),)
