"""Tiny random checkpoints of served families, of widths that vLLM knows on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.families.cases import CASES
from tests.families.checkpoints import template
from tests.families.models.common import HEADS, built
from tests.families.processors import RECIPES
from tests.families.tokenizer import tokenizer

CHANNELS = 32
"""Of a head; vLLM's attention on a CPU knows no fewer."""


def save(name: str, folder: Path) -> str:
    """Write the checkpoint of a family's case with a wider LLM, and give its folder."""
    import transformers

    case, recipe, config = CASES[name], RECIPES[name], _wider(CASES[name].config())
    processor = recipe.processor(case, tokenizer(recipe.special, recipe.named))
    processor.chat_template = template(recipe)
    if name == "qwen3_vl":
        # released checkpoints normalise pictures as clips, and vLLM reads it of pictures alone
        pictures, clips = processor.image_processor, processor.video_processor
        pictures.image_mean, pictures.image_std = clips.image_mean, clips.image_std
    processor.save_pretrained(folder)
    model_class = getattr(transformers, case.model_class)
    built(model_class, config, torch.float32, "sdpa").save_pretrained(folder)
    return str(folder)


def _wider(config: Any) -> Any:
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size = HEADS * CHANNELS, 2 * HEADS * CHANNELS
    text.head_dim = CHANNELS
    if "mrope_section" in text.rope_parameters:
        text.rope_parameters["mrope_section"] = [4, 6, 6]
        # transformers interleaves Qwen3-VL's axes always, vLLM where released configs say so
        text.rope_parameters["mrope_interleaved"] = config.model_type == "qwen3_vl"
        vision.out_hidden_size = HEADS * CHANNELS
    return config
