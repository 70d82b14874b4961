"""Processor of Apertus 1.5."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.models import apertus
from tests.families.models.common import BREAK, END, IMAGE, PATCH, START
from tests.families.processors.common import VISION, Recipe, made


def _apertus(case: Case, tokenizer: Any) -> Any:
    size = {"min_pixels": 4 * PATCH**2, "max_pixels": 64 * PATCH**2}
    return made(
        "Apertus1p5Processor",
        image_processor=made("Apertus1p5ImageProcessor", size=size, spatial_factor=PATCH),
        feature_extractor=made("WavTokenizerFeatureExtractor", hop_length=apertus.HOP),
        tokenizer=tokenizer,
    )


RECIPES: dict[str, Recipe] = {
    "apertus1p5": Recipe(
        _apertus,
        {
            IMAGE: "<|image|>",
            START: "<|img_start|>",
            END: "<|img_end|>",
            BREAK: "<|img_end_of_row|>",
            apertus.HEADER: "<|img_token_start|>",
            apertus.AUDIO: "<|audio|>",
            apertus.AUDIO_START: "<|audio_start|>",
            apertus.AUDIO_END: "<|audio_end|>",
        },
        "<|image|>",
        named={
            "image_token": IMAGE,
            "boi_token": START,
            "eoi_token": END,
            "image_wrapper_token": apertus.HEADER,
            "eol_token": BREAK,
            "audio_token": apertus.AUDIO,
            "boa_token": apertus.AUDIO_START,
            "eoa_token": apertus.AUDIO_END,
        },
        needs=VISION,
    )
}
