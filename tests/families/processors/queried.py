"""Processors of families whose tokens are learned queries, or patches convolved."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.models import aria, deepseek_ocr2, got_ocr2, idefics2
from tests.families.models.common import END, IMAGE, PATCH, START
from tests.families.processors.common import VISION, Recipe, images, made, square


def _deepseek_ocr2(case: Case, tokenizer: Any) -> Any:
    shown = images(
        "DeepseekOcr2ImageProcessor",
        size=square(deepseek_ocr2.WHOLE),
        tile_size=deepseek_ocr2.PART,
        min_patches=2,
        max_patches=4,
    )
    return made(
        "DeepseekOcr2Processor",
        image_processor=shown,
        tokenizer=tokenizer,
        patch_size=deepseek_ocr2.PATCH,
    )


def _got_ocr2(case: Case, tokenizer: Any) -> Any:
    shown = images("GotOcr2ImageProcessor", size=square(got_ocr2.SIDE))
    return made("GotOcr2Processor", image_processor=shown, tokenizer=tokenizer)


def _idefics2(case: Case, tokenizer: Any) -> Any:
    sizes = {"shortest_edge": 4 * PATCH, "longest_edge": 2 * idefics2.SIDE}
    shown = images("Idefics2ImageProcessor", size=sizes)
    return made(
        "Idefics2Processor",
        image_processor=shown,
        tokenizer=tokenizer,
        image_seq_len=idefics2.UNITS,
    )


def _aria(case: Case, tokenizer: Any) -> Any:
    shown = images("AriaImageProcessor")
    return made(
        "AriaProcessor",
        image_processor=shown,
        tokenizer=tokenizer,
        size_conversion={aria.LARGE: aria.QUERIES[(aria.LARGE // aria.PATCH) ** 2]},
    )


RECIPES: dict[str, Recipe] = {
    "got_ocr2": Recipe(
        _got_ocr2,
        {IMAGE: "<imgpad>", START: "<img>", END: "</img>"},
        "<imgpad>",
        needs=VISION,
        flat=True,
    ),
    "idefics2": Recipe(
        _idefics2,
        {IMAGE: "<image>", START: "<fake_token_around_image>"},
        named={"image_token": IMAGE, "image_boundary_token": START},
    ),
    "aria": Recipe(
        _aria, {IMAGE: "<|img|>"}, "<|img|>", named={"image_token": IMAGE}, needs=VISION
    ),
    "deepseek_ocr2": Recipe(_deepseek_ocr2, {IMAGE: "<image>"}, needs=VISION),
}
