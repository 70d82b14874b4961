"""DeepSeek-OCR 2: learned queries behind the patches of a picture and of its parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import BOS, EOS, HEADS, IMAGE, LAYERS, PAD, VOCABULARY, WIDTH
from tests.families.scenes import Image, Prompt, Video

PATCH = 2
WHOLE, PART = 64 * PATCH, 48 * PATCH
"""Pixels of views as many patches high as released ones: how many queries there are is fixed."""
UNITS = {WHOLE: 256, PART: 144}


def parts(image: Image) -> int:
    """Parts of a picture; none where it is no larger than one."""
    count = (image.height // PART) * (image.width // PART)
    return count if count > 1 else 0


class DeepseekOcr2(Case):
    """The second LLM layer on has experts."""

    def config(self) -> Any:
        from transformers import DeepseekOcr2Config

        sizes = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_key_value_heads": 2}
        sizes |= {"intermediate_size": 2 * WIDTH, "pad_token_id": PAD}
        sam = {
            "hidden_size": 8,
            "output_channels": 8,
            "downsample_channels": [8, WIDTH],
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "image_size": WHOLE,
            "patch_size": PATCH,
            "window_size": 5,
            # released ones see everything in some blocks, which takes 0.1 GB for these 4096 patches
            "global_attn_indexes": [],
            "mlp_dim": 16,
        }
        return DeepseekOcr2Config(
            vision_config={
                "sam_config": sam,
                "encoder_config": {**sizes, "num_hidden_layers": 2, "vocab_size": 2},
            },
            text_config={
                **sizes,
                "num_hidden_layers": LAYERS,
                "vocab_size": VOCABULARY,
                "bos_token_id": BOS,
                "eos_token_id": EOS,
                "mlp_layer_types": ["dense", *["sparse"] * (LAYERS - 1)],
                "n_routed_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 16,
            },
            image_token_id=IMAGE,
        )

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [IMAGE] * (parts(image) * UNITS[PART] + UNITS[WHOLE] + 1)

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        shown = scenes.images(prompts)
        if not shown:
            return {}
        whole = [scenes.pixels(Image(WHOLE, WHOLE, image.seed)) for image in shown]
        small = [
            scenes.pixels(Video(parts(image), PART, PART, image.seed))
            for image in shown
            if parts(image)
        ]
        found = {
            "pixel_values": torch.stack(whole),
            "num_local_patches": torch.tensor([parts(image) for image in shown]),
        }
        return found | ({"pixel_values_local": torch.cat(small)} if small else {})


SIZES = ((PART, PART), (PART, 2 * PART))
CASES = (DeepseekOcr2("deepseek_ocr2", "DeepseekOcr2ForConditionalGeneration", SIZES),)
