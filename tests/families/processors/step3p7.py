"""Processor of Step 3.7."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.models import step3p7
from tests.families.models.common import END, IMAGE, START
from tests.families.processors.common import VISION, Recipe, made, square


def _step3p7(case: Case, tokenizer: Any) -> Any:
    shown = made(
        "Step3p7ImageProcessor",
        size=square(step3p7.WHOLE),
        patch_size=step3p7.CROP,
        vision_patch_size=step3p7.PATCH,
        downsampler_stride=step3p7.STRIDE,
    )
    return made("Step3p7Processor", image_processor=shown, tokenizer=tokenizer)


RECIPES: dict[str, Recipe] = {
    "step3p7": Recipe(
        _step3p7,
        {
            IMAGE: "<im_patch>",
            START: "<im_start>",
            END: "<im_end>",
            step3p7.CROP_START: "<patch_start>",
            step3p7.CROP_END: "<patch_end>",
            step3p7.NEWLINE: "<patch_newline>",
        },
        "<im_patch>",
        needs=VISION,
    )
}
