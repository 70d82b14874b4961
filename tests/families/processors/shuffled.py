"""Processors of InternVL, Idefics3 and SmolVLM."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.models import shuffled
from tests.families.models.common import END, IMAGE, START, VIDEO
from tests.families.processors.common import BOTH, VISION, Recipe, images, made, square


def _internvl(case: Case, tokenizer: Any) -> Any:
    size = square(shuffled.SIDE)
    return made(
        "InternVLProcessor",
        image_processor=images(
            "GotOcr2ImageProcessor", size=size, crop_to_patches=True, min_patches=1, max_patches=4
        ),
        video_processor=made("InternVLVideoProcessor", size=size),
        tokenizer=tokenizer,
        image_seq_length=shuffled.UNITS,
    )


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
    "idefics3": Recipe(_idefics3, TILES),
    "smolvlm": Recipe(_smolvlm, TILES, needs=("torchvision", "num2words")),
}
