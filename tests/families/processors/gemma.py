"""Processors of PaliGemma, Gemma 3, Gemma 3n and both kinds of Gemma 4."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.models import gemma, gemma3n, gemma4
from tests.families.models.common import END, IMAGE, PATCH, START, VIDEO
from tests.families.processors.common import VISION, Recipe, images, made, square


def _gemma3(case: Case, tokenizer: Any) -> Any:
    return made(
        "Gemma3Processor",
        image_processor=images("Gemma3ImageProcessor", size=square(gemma.SIDE)),
        tokenizer=tokenizer,
        image_seq_length=gemma.UNITS,
    )


def _paligemma(case: Case, tokenizer: Any) -> Any:
    shown = images("SiglipImageProcessor", size=square(gemma.SIDE), image_seq_length=gemma.PATCHES)
    return made("PaliGemmaProcessor", image_processor=shown, tokenizer=tokenizer)


def _gemma3n(case: Case, tokenizer: Any) -> Any:
    return made(
        "Gemma3nProcessor",
        feature_extractor=made("Gemma3nAudioFeatureExtractor", feature_size=gemma3n.MELS),
        image_processor=images("SiglipImageProcessor", size=square(gemma3n.SIDE)),
        tokenizer=tokenizer,
        audio_seq_length=gemma3n.HEARD,
        image_seq_length=gemma3n.UNITS,
    )


def _gemma4(case: Case, tokenizer: Any) -> Any:
    unified = isinstance(case, gemma4.Unified)
    kind = "Gemma4Unified" if unified else "Gemma4"
    hearing = {"feature_size": gemma4.SAMPLES} if unified else {}
    settings = {"patch_size": PATCH, "pooling_kernel_size": gemma4.POOL, "max_soft_tokens": 70}
    return made(
        f"{kind}Processor",
        feature_extractor=made(f"{kind}AudioFeatureExtractor", **hearing),
        image_processor=images(f"{kind}ImageProcessor", **settings),
        video_processor=made(f"{kind}VideoProcessor", **settings),
        tokenizer=tokenizer,
    )


def _gemma4_recipe() -> Recipe:
    special = {
        IMAGE: "<|image|>",
        VIDEO: "<|video|>",
        START: "<|image>",
        END: "<image|>",
        gemma4.AUDIO: "<|audio|>",
        gemma4.AUDIO + 1: "<|audio>",
        gemma4.AUDIO + 2: "<audio|>",
    }
    named = {
        "image_token": IMAGE,
        "boi_token": START,
        "eoi_token": END,
        "audio_token": gemma4.AUDIO,
        "boa_token": gemma4.AUDIO + 1,
        "eoa_token": gemma4.AUDIO + 2,
    }
    return Recipe(_gemma4, special, "<|image|>", "<|video|>", named, VISION)


GEMMA4 = _gemma4_recipe()
RECIPES: dict[str, Recipe] = {
    "gemma3": Recipe(
        _gemma3,
        {IMAGE: "<image_soft_token>", START: "<start_of_image>", END: "<end_of_image>"},
        "<start_of_image>",
        named={"image_token": IMAGE, "boi_token": START, "eoi_token": END},
    ),
    "gemma3n": Recipe(
        _gemma3n,
        {
            IMAGE: "<image_soft_token>",
            START: "<start_of_image>",
            gemma3n.END: "<end_of_image>",
            gemma3n.AUDIO: "<audio_soft_token>",
            gemma3n.AUDIO_START: "<start_of_audio>",
            gemma3n.AUDIO_END: "<end_of_audio>",
        },
        "<image_soft_token>",
        named={
            "image_token": IMAGE,
            "boi_token": START,
            "eoi_token": gemma3n.END,
            "audio_token": gemma3n.AUDIO,
            "boa_token": gemma3n.AUDIO_START,
            "eoa_token": gemma3n.AUDIO_END,
        },
        needs=VISION,
    ),
    "gemma4": GEMMA4,
    "gemma4-shared": GEMMA4,
    "gemma4_unified": GEMMA4,
    "paligemma": Recipe(_paligemma, {IMAGE: "<image>"}, named={"image_token": IMAGE}),
}
