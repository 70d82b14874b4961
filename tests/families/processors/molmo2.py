"""Processor of Molmo 2."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.models import molmo2
from tests.families.models.common import END, IMAGE, PATCH, START
from tests.families.processors.common import VISION, Recipe, made, square

LOW, PICTURE, CLIP = 15, 16, 17
"""A mark that no prompt has, and what stands for a picture and a clip in a user's text."""


def _molmo2(case: Case, tokenizer: Any) -> Any:
    sizes = {"size": square(molmo2.SIDE), "patch_size": PATCH}
    return made(
        "Molmo2Processor",
        image_processor=made(
            "Molmo2ImageProcessor",
            max_crops=4,
            overlap_margins=list(molmo2.MARGINS),
            pooling_size=[molmo2.POOL] * 2,
            **sizes,
        ),
        video_processor=made(
            "Molmo2VideoProcessor", pooling_size=[molmo2.POOL_FRAMES] * 2, **sizes
        ),
        tokenizer=tokenizer,
    )


RECIPES: dict[str, Recipe] = {
    "molmo2": Recipe(
        _molmo2,
        {
            IMAGE: "<im_patch>",
            START: "<im_start>",
            END: "<im_end>",
            molmo2.COLUMN: "<im_col>",
            molmo2.LOW: "<low_res_im_start>",
            molmo2.FRAME_START: "<frame_start>",
            molmo2.FRAME_END: "<frame_end>",
            LOW: "<im_low>",
            PICTURE: "<|image|>",
            CLIP: "<|video|>",
        },
        "<|image|>",
        "<|video|>",
        {"image_token": PICTURE, "video_token": CLIP},
        VISION,
    )
}
