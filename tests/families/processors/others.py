"""Processors of towers of Pixtral and of PerceptionLM."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.models import mistral3, perception
from tests.families.models.common import BREAK, END, IMAGE, PATCH, VIDEO
from tests.families.processors.common import VISION, Recipe, images, made, square


def _pixtral(case: mistral3.Mistral3, tokenizer: Any) -> Any:
    shown = images(
        "PixtralImageProcessor", size={"longest_edge": mistral3.LARGEST}, patch_size=square(PATCH)
    )
    return made(
        "PixtralProcessor",
        image_processor=shown,
        tokenizer=tokenizer,
        patch_size=PATCH,
        spatial_merge_size=case.merge,
    )


def _perception_lm(case: Case, tokenizer: Any) -> Any:
    return made(
        "PerceptionLMProcessor",
        image_processor=made(
            "PerceptionLMImageProcessor",
            tile_size=perception.SIDE,
            max_num_tiles=4,
            vision_input_type="thumb+tile",
        ),
        video_processor=made("PerceptionLMVideoProcessor", size=square(perception.SIDE)),
        tokenizer=tokenizer,
        patch_size=perception.PATCH,
        pooling_ratio=perception.POOL,
    )


PIXTRAL = Recipe(
    _pixtral,
    {IMAGE: "[IMG]", BREAK: "[IMG_BREAK]", END: "[IMG_END]"},
    "[IMG]",
    needs=VISION,
)
RECIPES: dict[str, Recipe] = {
    "mistral3": PIXTRAL,
    "llava_pixtral": PIXTRAL,
    "perception_lm": Recipe(
        _perception_lm,
        {IMAGE: "<|image|>", VIDEO: "<|video|>"},
        "<|image|>",
        "<|video|>",
        {"image_token": IMAGE, "video_token": VIDEO},
        VISION,
    ),
}
