"""Processors of Granite Docling and Granite 4 Vision."""

from __future__ import annotations

from typing import Any

from tests.families.models import granite4, granite_docling, shuffled
from tests.families.models.common import IMAGE, PATCH, START
from tests.families.processors.common import VISION, Recipe, images, made, square
from tests.families.processors.llava import tiles
from tests.families.processors.shuffled import TILE_TAGS


def _granite_docling(case: granite_docling.GraniteDocling, tokenizer: Any) -> Any:
    shown = images(
        "GraniteDoclingImageProcessor",
        size=square(shuffled.SIDE),
        max_patches=4,
        fine_route=case.fine,
    )
    return made(
        "GraniteDoclingProcessor",
        image_processor=shown,
        tokenizer=tokenizer,
        image_seq_len=granite_docling.UNITS,
    )


def _granite4_vision(case: granite4.Granite4Vision, tokenizer: Any) -> Any:
    return made(
        "Granite4VisionProcessor",
        image_processor=tiles(case),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        downsample_rate=f"{granite4.QUERIES}/{granite4.WINDOW}",
    )


GRANITE = Recipe(
    _granite_docling,
    {
        IMAGE: "<image>",
        START: "<fake_token_around_image>",
        shuffled.WHOLE: "<global-img>",
        **TILE_TAGS,
    },
    named={"image_token": IMAGE},
    needs=VISION,
)
RECIPES: dict[str, Recipe] = {
    "granite_docling": GRANITE,
    "granite_docling-fine": GRANITE,
    "granite4_vision": Recipe(_granite4_vision, {IMAGE: "<image>"}),
}
