"""Processors of InternVL, Qianfan-OCR, Idefics3 and SmolVLM."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.families.case import Case
from tests.families.models import shuffled
from tests.families.models.common import END, IMAGE, START, VIDEO
from tests.families.processors.common import BOTH, VISION, Recipe, images, made, square


def _internvl(case: Case, tokenizer: Any) -> Any:
    videos = made("InternVLVideoProcessor", size=square(shuffled.SIDE))
    return _tiled("InternVLProcessor", tokenizer, video_processor=videos)


def _qianfan_ocr(case: Case, tokenizer: Any) -> Any:
    return _tiled("QianfanOCRProcessor", tokenizer, image_placeholder_token="<image>")


def _tiled(kind: str, tokenizer: Any, **rest: Any) -> Any:
    size = square(shuffled.SIDE)
    own = images(
        "GotOcr2ImageProcessor", size=size, crop_to_patches=True, min_patches=1, max_patches=4
    )
    units = {"image_seq_length": shuffled.UNITS}
    return made(kind, image_processor=own, tokenizer=tokenizer, **units, **rest)


def _split() -> dict[str, Any]:
    """Settings of image processors that cut pictures into tiles."""
    return {
        "size": {"longest_edge": 2 * shuffled.SIDE},
        "max_image_size": {"longest_edge": shuffled.SIDE},
    }


def _idefics3(case: Case, tokenizer: Any) -> Any:
    return made(
        "Idefics3Processor",
        image_processor=images("Idefics3ImageProcessor", **_split()),
        tokenizer=tokenizer,
        image_seq_len=shuffled.UNITS,
    )


def _smolvlm(case: Case, tokenizer: Any) -> Any:
    return made(
        "SmolVLMProcessor",
        image_processor=images("SmolVLMImageProcessor", **_split()),
        video_processor=made("SmolVLMVideoProcessor", **_split()),
        tokenizer=tokenizer,
        image_seq_len=shuffled.UNITS,
    )


TILE_TAGS = {shuffled.TILE + n: f"<row_{n // 4 + 1}_col_{n % 4 + 1}>" for n in range(16)}
TILES = {
    **BOTH,
    START: "<fake_token_around_image>",
    shuffled.WHOLE: "<global-img>",
    shuffled.TURN: "<end_of_utterance>",
    **TILE_TAGS,
}
INTERNVL = Recipe(
    _internvl,
    {IMAGE: "<IMG_CONTEXT>", VIDEO: "<video>", START: "<img>", END: "</img>"},
    "<IMG_CONTEXT>",
    named={
        "context_image_token": IMAGE,
        "video_token": VIDEO,
        "start_image_token": START,
        "end_image_token": END,
    },
    needs=VISION,
)
RECIPES: dict[str, Recipe] = {
    "internvl": INTERNVL,
    "qianfan_ocr": replace(INTERNVL, processor=_qianfan_ocr, picture="<image>"),
    "idefics3": Recipe(_idefics3, TILES),
    "smolvlm": Recipe(_smolvlm, TILES, needs=("torchvision", "num2words")),
}
