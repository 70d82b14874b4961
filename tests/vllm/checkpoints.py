"""Tiny random checkpoints of served families, of widths that vLLM knows on a CPU."""

from __future__ import annotations

from math import isqrt
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

SECTIONS = {
    **{kind: [3, 3, 2] for kind in ("qwen3_5", "qwen3_5_moe", "minicpmv4_6")},
    "glm4v_moe": [2, 3, 3],
}
"""Of M-RoPE where half of a head's channels turn; else a quarter, and three eighths twice."""


def save(name: str, folder: Path) -> str:
    """Write the checkpoint of a family's case with a wider LLM, and give its folder."""
    import transformers

    case, recipe, config = CASES[name], RECIPES[name], wider(CASES[name].config())
    processor = recipe.processor(case, tokenizer(recipe.special, recipe.named))
    processor.chat_template = template(recipe)
    if name == "llava_next_video":
        # vLLM divides by the quotient of a frame's side and the square of a patch's
        config.vision_config.patch_size //= 2
        processor.patch_size //= 2
    if name.startswith("qwen3"):
        # released checkpoints normalise pictures as clips, and vLLM reads it of pictures alone
        pictures, clips = processor.image_processor, processor.video_processor
        pictures.image_mean, pictures.image_std = clips.image_mean, clips.image_std
    processor.save_pretrained(folder)
    model_class = getattr(transformers, case.model_class)
    built(model_class, config, torch.float32, "sdpa").save_pretrained(folder)
    if name == "qwen3_vl_moe":
        _transpose_experts(folder / "model.safetensors")
    return str(folder)


def _transpose_experts(weights: Path) -> None:
    """Released checkpoints hold them so, transformers saves them the other way round."""
    from safetensors.torch import load_file, save_file

    found = load_file(weights)
    turned = {n: w.mT.contiguous() if ".experts." in n else w for n, w in found.items()}
    save_file(turned, weights, {"format": "pt"})


def wider(config: Any) -> Any:
    """The config with an LLM of widths that vLLM knows."""
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size = HEADS * CHANNELS, 2 * HEADS * CHANNELS
    text.head_dim = CHANNELS
    if config.model_type == "granite4_vision":  # vLLM has one width of the queries' MLP
        config.qformer_config.intermediate_size = 3072
    if config.model_type in ("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"):
        config.audio_config.output_dim = HEADS * CHANNELS
    if config.model_type == "qwen3_omni_moe_thinker":  # as released; vLLM reads both
        vision.image_size = isqrt(vision.num_position_embeddings) * vision.patch_size
        vision.apply_vit_abs_pos_embed = True
    if "mrope_section" in text.rope_parameters:
        _turning(config.model_type, text, vision)
    return config


def _turning(kind: str, text: Any, vision: Any) -> None:
    """What positions, heads and experts of Qwen-VL and GLM-4V follow from, as released."""
    text.rope_parameters["mrope_section"] = SECTIONS.get(kind, [4, 6, 6])
    # transformers interleaves the axes of the later ones always, vLLM where configs say so
    text.rope_parameters["mrope_interleaved"] = text.model_type.startswith("qwen3")
    setattr(vision, "hidden_size" if kind == "qwen2_vl" else "out_hidden_size", HEADS * CHANNELS)
    if text.model_type.startswith("qwen3_5"):
        text.linear_key_head_dim = text.linear_value_head_dim = CHANNELS
        # a quarter of the layers, as released, sees little of a picture here
        text.layer_types = ["linear_attention", "full_attention"] * 2
    if kind == "glm_ocr":
        # vLLM turns half of the channels unless it is told, and has one width in both parts
        text.rope_parameters["partial_rotary_factor"] = 1.0
        text.intermediate_size = vision.out_hidden_size * vision.in_channels
    if kind == "paddleocr_vl":  # vLLM knows no biases
        text.use_bias = False
    if kind.startswith("glm4v"):
        text.attention_bias, text.use_qk_norm = True, False
    if kind == "glm4v":  # transformers reads the width of a head for the rotation alone
        del text.head_dim
    text.norm_topk_prob = True  # again always in transformers
