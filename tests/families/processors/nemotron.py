"""Processor of Nemotron 3 Omni."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.models.common import BREAK, END, IMAGE, PATCH, START, VIDEO
from tests.families.models.nemotron import MELS
from tests.families.processors.common import BOTH, VISION, Recipe, made

MEANS = [0.5] * 3


def _nemotron(case: Case, tokenizer: Any) -> Any:
    kind = "NemotronH_Omni_Reasoning_V3"
    return made(
        f"{kind}Processor",
        image_processor=made(
            f"{kind}ImageProcessor", patch_size=PATCH, min_num_patches=16, max_num_patches=64
        ),
        video_processor=made(
            f"{kind}VideoProcessor",
            patch_size=PATCH,
            video_target_num_patches=24,
            norm_mean=MEANS,
            norm_std=MEANS,
        ),
        feature_extractor=made("ParakeetFeatureExtractor", feature_size=MELS),
        tokenizer=tokenizer,
    )


RECIPES: dict[str, Recipe] = {
    "nemotron_h_omni": Recipe(
        _nemotron,
        {
            **BOTH,
            START: "<img>",
            END: "</img>",
            BREAK: "<so_embedding>",
        },
        named={"image_token": IMAGE, "video_token": VIDEO},
        needs=VISION,
    )
}
