"""Small models and prompts with any number of pictures, on which growth is measured.

LLaVA's pictures have one size. Those of Qwen2.5-VL have one size, or as many as there are grids in
`MIXED`: strategies are asked about pictures of equal grids together, so these are the harder case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.towers import qwen_vision

START, END, IMAGE, FIRST, LAST = 1, 2, 5, 3, 4
WORDS = 16
Inputs = dict[str, Tensor]

#: Rows and columns of units, relative to the square grid: about as many units, other shapes.
MIXED = (
    (1, 1),
    (1.25, 0.75),
    (0.75, 1.25),
    (1.5, 0.75),
    (0.75, 1),
    (1, 0.75),
    (1.25, 1),
    (1, 1.25),
)


@dataclass(frozen=True)
class Size:
    """Of the models.

    Attributes:
        side: rows and columns of LLaVA's patches, and of the units of a square Qwen picture.
        width: of towers.
        depth: blocks of towers.
        language: width of the LLM, of two layers.
    """

    side: tuple[int, int]
    width: int
    depth: int
    language: int


SMALL, TINY = Size((16, 8), 128, 8, 64), Size((6, 4), 32, 4, 32)


@dataclass(frozen=True)
class Family:
    """A model and its calls.

    Attributes:
        name: in records.
        build: the model, in eval mode.
        call: a prompt with that many pictures.
        strategies: place of each strategy that is measured on it.
    """

    name: str
    build: Callable[[], nn.Module]
    call: Callable[[int], Inputs]
    strategies: dict[str, str]

    def plan(self, strategy: str) -> dict[str, Any]:
        """Half of the tokens are left; inside the LLM in front of its second layer."""
        place = self.strategies[strategy]
        stage = {"at": place, "strategy": strategy, "keep": 0.5}
        if place == "decoder":
            stage["layer"] = 1
        return {"schema_version": 1, "stages": [stage]}


def families(*, tiny: bool = False) -> tuple[Family, ...]:
    """What growth is measured on; in tiny sizes to try it out."""
    size = TINY if tiny else SMALL
    packed = {"tome": "encoder", "evoprune": "encoder", "fopru": "pre_llm", "divprune": "pre_llm"}
    return (
        Family(
            "llava",
            lambda: _llava(size),
            lambda images: _llava_call(size, images),
            {**packed, "visionzip": "pre_llm", "fastv": "decoder"},
        ),
        Family("qwen2.5-vl", lambda: _qwen(size), lambda n: _qwen_call(_square(size, n)), packed),
        Family(
            f"qwen2.5-vl, {len(MIXED)} grids",
            lambda: _qwen(size),
            lambda images: _qwen_call(_mixed(size, images)),
            packed,
        ),
    )


def _language(size: Size) -> dict[str, Any]:
    return {
        "hidden_size": size.language,
        "intermediate_size": 2 * size.language,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 128,
        "max_position_embeddings": 1 << 16,
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": 0,
    }


def _llava(size: Size) -> nn.Module:
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    vision = CLIPVisionConfig(
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.depth,
        num_attention_heads=4,
        image_size=8 * size.side[0],
        patch_size=8,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**_language(size)),
        image_token_index=IMAGE,
        image_seq_length=size.side[0] ** 2,
    )
    made: nn.Module = LlavaForConditionalGeneration(config)
    return made.eval()


def _llava_call(size: Size, images: int) -> Inputs:
    pixels = 8 * size.side[0]
    prompt = _prompt([[IMAGE] * size.side[0] ** 2] * images)
    return prompt | {"pixel_values": torch.randn(images, 3, pixels, pixels)}


def _qwen(size: Size) -> nn.Module:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    language = _language(size)
    eighth = size.language // 4 // 8
    sections = [2 * eighth, eighth, eighth]
    rotary = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    config = Qwen2_5_VLConfig(
        text_config={**language, "rope_parameters": rotary},
        vision_config=qwen_vision(size.depth, size.width, size.language),
        image_token_id=IMAGE,
        vision_start_token_id=FIRST,
        vision_end_token_id=LAST,
    )
    made: nn.Module = Qwen2_5_VLForConditionalGeneration(config)
    return made.eval()


def _square(size: Size, images: int) -> list[tuple[int, int]]:
    return [(size.side[1], size.side[1])] * images


def _mixed(size: Size, images: int) -> list[tuple[int, int]]:
    """Rows and columns of units of pictures whose grids take turns."""
    side = size.side[1]
    grids = [(int(rows * side), int(columns * side)) for rows, columns in MIXED]
    return [grids[number % len(grids)] for number in range(images)]


def _qwen_call(grids: Sequence[tuple[int, int]]) -> Inputs:
    call = _prompt([[FIRST, *[IMAGE] * (rows * columns), LAST] for rows, columns in grids])
    count = sum(4 * rows * columns for rows, columns in grids)
    return call | {
        "pixel_values": torch.randn(count, 1176),
        "image_grid_thw": torch.tensor([(1, 2 * rows, 2 * columns) for rows, columns in grids]),
        "mm_token_type_ids": (call["input_ids"] == IMAGE).long(),
    }


def _prompt(pictures: Sequence[Sequence[int]]) -> Inputs:
    """One prompt: its pictures, then words."""
    shown = [one for picture in pictures for one in picture]
    ids = torch.tensor([[START, *shown, *range(10, 10 + WORDS)]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
