"""Processor of Ovis2."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.models import ovis2
from tests.families.models.common import IMAGE, VIDEO
from tests.families.models.shuffled import SIDE, UNITS
from tests.families.processors.common import VISION, Recipe, images, made, square


def _ovis2(case: Case, tokenizer: Any) -> Any:
    shown = images("Ovis2ImageProcessor", size=square(SIDE), crop_to_patches=True, max_patches=4)
    return made(
        "Ovis2Processor", image_processor=shown, tokenizer=tokenizer, image_seq_length=UNITS
    )


NAMES = ("<IMG_START>", "<IMG_END>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>")
RECIPES: dict[str, Recipe] = {
    "ovis2": Recipe(
        _ovis2,
        {
            IMAGE: "<IMG_ATOM>",
            VIDEO: "<image>",
            **dict(zip(ovis2.INDICATORS, NAMES, strict=True)),
        },
        needs=VISION,
    ),
}
