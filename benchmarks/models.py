"""Random LLaVA and Qwen2.5-VL models of any size, and prompts: time depends on no weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Inputs = dict[str, Tensor]

#: Ids of special tokens, the same in all models here; words are drawn from above them.
START, END, IMAGE, FIRST, LAST = 1, 2, 5, 3, 4


def language(
    width: int, inner: int, layers: int, heads: int, *, vocabulary: int = 128, longest: int = 8192
) -> dict[str, Any]:
    """The config of an LLM.

    Args:
        width: of its states.
        inner: of its MLPs.
        layers: how many.
        heads: of its attention.
        vocabulary: tokens that there are.
        longest: positions.
    """
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": longest,
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": 0,
    }


def llava(vision: dict[str, int], text: dict[str, Any], image: int = IMAGE) -> Any:
    """A LLaVA in eval mode.

    Args:
        vision: config of its CLIP tower, such as `towers.sizes` makes.
        text: config of its LLM.
        image: id of the placeholder.
    """
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=LlamaConfig(**text),
        image_token_index=image,
        image_seq_length=(vision["image_size"] // vision["patch_size"]) ** 2,
    )
    return LlavaForConditionalGeneration(config).eval()


def qwen(vision: dict[str, Any], text: dict[str, Any], sections: Sequence[int]) -> Any:
    """A Qwen2.5-VL in eval mode.

    Args:
        vision: config of its tower, such as `towers.qwen_vision` makes.
        text: config of its LLM.
        sections: channels of rotary positions in time, height and width.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    rotary = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [*sections]}
    config = Qwen2_5_VLConfig(
        text_config={**text, "rope_parameters": rotary},
        vision_config=vision,
        image_token_id=IMAGE,
        vision_start_token_id=FIRST,
        vision_end_token_id=LAST,
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def llava_call(pixels: int, patches: int, images: int, words: int) -> Inputs:
    """A prompt with pictures of LLaVA's size, then words."""
    call = _prompt([[IMAGE] * patches] * images, words)
    return call | {"pixel_values": torch.randn(images, 3, pixels, pixels)}


def qwen_call(grids: Sequence[tuple[int, int]], words: int) -> Inputs:
    """A prompt with pictures of so many rows and columns of units, then words."""
    call = _prompt([[FIRST, *[IMAGE] * (rows * columns), LAST] for rows, columns in grids], words)
    count = sum(4 * rows * columns for rows, columns in grids)
    return call | {
        "pixel_values": torch.randn(count, 1176),
        "image_grid_thw": torch.tensor([(1, 2 * rows, 2 * columns) for rows, columns in grids]),
        "mm_token_type_ids": (call["input_ids"] == IMAGE).long(),
    }


def _prompt(pictures: Sequence[Sequence[int]], words: int) -> Inputs:
    shown = [one for picture in pictures for one in picture]
    ids = torch.tensor([[START, *shown, *torch.randint(10, 100, (words,)).tolist()]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
