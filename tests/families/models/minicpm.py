"""MiniCPM-V and MiniCPM-OCR: 2x2 patches merged inside the tower, and 2x2 of these behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import (
    BLOCKS,
    END,
    IMAGE,
    START,
    VIDEO,
    WIDTH,
    text,
    tower,
    words,
)
from tests.families.models.qwen import ROTARY
from tests.families.scenes import Image, Prompt, Video

PATCH = 4
UNIT = 4 * PATCH
SLICE_START, SLICE_END, LINE = 9, 10, 11
WIDEST, CUT = 48, 32


@dataclass(frozen=True, eq=False)
class MiniCpm(Case):
    """An overview in front of the slices of wide pictures; clips frame by frame."""

    sizes: tuple[tuple[int, int], tuple[int, int]] = ((48, 32), (32, 64))
    clip: tuple[int, int, int] | None = (2, 32, 48)
    # linear attention rounds to float32 whatever the dtype
    rounding: float = 1e-4
    mode: str = "16x"
    """Of the config: `4x` for patches that aren't merged inside the tower."""

    @property
    def row(self) -> int:
        """Height and width of what is a row of the blocks behind the merger."""
        return 2 * PATCH if self.mode == "16x" else PATCH

    def units(self, part: Image | Video) -> int:
        """Placeholders of a picture or frame."""
        side = 2 * self.row
        return part.height // side * (part.width // side)

    def config(self) -> Any:
        from transformers import MiniCPMV4_6Config

        return MiniCPMV4_6Config(**self.settings("minicpmv4_6_vision"))

    def settings(self, tower_kind: str) -> dict[str, Any]:
        """Of the config."""
        language = text(
            "qwen3_5_text",
            head_dim=WIDTH // 2,
            layer_types=[*["linear_attention"] * 3, "full_attention"],
            linear_num_key_heads=2,
            linear_num_value_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            rope_parameters={**ROTARY, "partial_rotary_factor": 0.5},
        )
        vision = tower(
            tower_kind,
            image_size=8 * PATCH,
            patch_size=PATCH,
            num_hidden_layers=1 + BLOCKS,
        )
        return {
            "vision_config": vision,
            "text_config": language,
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "insert_layer_id": 0,
            "downsample_mode": self.mode,
        }

    def missing(self, scene: str = "one") -> str | None:
        reason = super().missing(scene)
        if reason is None:
            from transformers.models.minicpmv4_6 import modeling_minicpmv4_6 as library

            if hasattr(library, "get_vision_merged_shape"):
                return "this release's tower takes pictures of one size, so no slices"
        return reason

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        whole, *slices = [[IMAGE] * self.units(one) for one in pieces(image)]
        row = [mark for one in slices for mark in (SLICE_START, *one, SLICE_END)]
        return [START, *whole, END, *row]

    def video_ids(self, video: Video) -> list[int]:
        frame = [*words(1, 100), START, *[VIDEO] * self.units(video), END]
        return [*frame, *frame[1:] * (video.frames - 1)]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        images = [one for image in scenes.images(prompts) for one in pieces(image)]
        frames = [one for clip in scenes.videos(prompts) for one in of_clip(clip)]
        call: dict[str, Tensor] = {}
        for end, shown in (("", images), ("_videos", frames)):
            if shown:
                call[f"pixel_values{end}"] = torch.cat([_patches(one) for one in shown], dim=-1)
                sizes = [[one.height // PATCH, one.width // PATCH] for one in shown]
                call[f"target_sizes{end}"] = torch.tensor(sizes, dtype=torch.int32)
        return call


@dataclass(frozen=True, eq=False)
class MiniCpmCanvas(MiniCpm):
    """MiniCPM-V 4.7: slices have positions on the picture that they are of."""

    def config(self) -> Any:
        from transformers import MiniCPMV4_7Config

        return MiniCPMV4_7Config(
            **self.settings("minicpmv4_7_vision"),
            image_start_id=START,
            image_end_id=END,
            slice_start_id=SLICE_START,
            slice_end_id=SLICE_END,
            newline_id=LINE,
        )

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        kinds = (ids == IMAGE).long() + 2 * (ids == VIDEO).long()
        return {"mm_token_type_ids": kinds, **super().extras(ids, prompts)}

    def positions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """None: the model itself reads the mask for its positions in three axes."""
        return {}


class MiniCpmOcr(MiniCpm):
    """MiniCPM-OCR, which as released merges no patches inside the tower."""

    def config(self) -> Any:
        from transformers import MiniCPMOcrConfig

        return MiniCPMOcrConfig(**self.settings("minicpm_ocr_vision"))


def pieces(image: Image) -> list[Image]:
    """What the tower sees of a picture: wide ones once smaller, and then in slices."""
    if image.width <= WIDEST:
        return [image]
    count = image.width // CUT
    slices = [Image(image.height, CUT, 10 * image.seed + number + 1) for number in range(count)]
    return [Image(image.height // 2, image.width // 2, 10 * image.seed), *slices]


def of_clip(clip: Video) -> list[Image]:
    """The frames of a clip, pictures of their own."""
    return [Image(clip.height, clip.width, 100 * clip.seed + n) for n in range(clip.frames)]


def _patches(image: Image) -> Tensor:
    """`[1, 3, p, N * p]`, patch by patch."""
    return scenes.pixels(image).reshape(1, 3, PATCH, -1)


CASES = (
    MiniCpm("minicpmv4_6", "MiniCPMV4_6ForConditionalGeneration"),
    MiniCpmCanvas("minicpmv4_7", "MiniCPMV4_7ForConditionalGeneration"),
    MiniCpmOcr("minicpm_ocr", "MiniCPMOcrForConditionalGeneration", mode="4x"),
)
