"""VideoLLaMA 3: a packed tower with a patch of a picture a place, and 2x2 of a frame averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import IMAGE, PATCH, VIDEO, text, tower, words
from tests.families.scenes import Image, Prompt, Video

MERGE = 2


def side(part: Image | Video) -> int:
    """Rows and columns of patches of a place."""
    return MERGE if isinstance(part, Video) else 1


@dataclass(frozen=True, eq=False)
class VideoLlama3(Case):
    """A clip is written frame by frame, with timestamps between."""

    sizes: tuple[tuple[int, int], tuple[int, int]] = ((24, 32), (32, 16))
    clip: tuple[int, int, int] | None = (3, 32, 48)

    def config(self) -> Any:
        from transformers import VideoLlama3Config

        return VideoLlama3Config(
            vision_config=tower("video_llama_3_vision"),
            text_config=text("qwen2"),
            image_token_id=IMAGE,
            video_token_id=VIDEO,
        )

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [IMAGE] * _places(image)

    def video_ids(self, video: Video) -> list[int]:
        row: list[int] = []
        for frame in range(video.frames):
            row += [*words(2, 100 + frame), *[VIDEO] * _places(video)]
        return row

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        shown: dict[str, list[Any]] = {
            "image": scenes.images(prompts),
            "video": scenes.videos(prompts),
        }
        call = scenes.packed(shown["image"], shown["video"], _rows, _grid)
        for modality, parts in shown.items():
            if parts:
                call[f"{modality}_merge_sizes"] = torch.tensor([side(part) for part in parts])
        if shown["video"]:
            places = sum(part.frames * _places(part) for part in shown["video"])
            call["video_compression_mask"] = torch.ones(places, dtype=torch.bool)
        return call


def _grid(part: Image | Video) -> list[int]:
    frames = part.frames if isinstance(part, Video) else 1
    return [frames, part.height // PATCH, part.width // PATCH]


def _places(part: Image | Video) -> int:
    return (part.height // PATCH // side(part)) * (part.width // PATCH // side(part))


def _rows(part: Image | Video) -> Tensor:
    """Rows of random patches: their order within the picture means nothing here."""
    frames, height, width = _grid(part)
    row = Video(frames * height * width, 1, PATCH * PATCH, part.seed)
    return scenes.pixels(row).flatten(1)


CASES = (VideoLlama3("video_llama_3", "VideoLlama3ForConditionalGeneration"),)
