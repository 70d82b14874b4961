"""Molmo 2: overlapping crops whose patches are pooled, clips of frames with times between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import (
    BLOCKS,
    END,
    HEADS,
    IMAGE,
    PATCH,
    START,
    WIDTH,
    text,
    words,
)
from tests.families.scenes import Image, Prompt, Video

CROP = 6
"""Rows and columns of patches of a crop."""
SIDE = CROP * PATCH
MARGINS = (1, 2)
"""Patches of a crop that the crop before or behind it shows, too."""
WINDOW = CROP - sum(MARGINS)
POOL, POOL_FRAMES = 2, 3
LOW, FRAME_START, FRAME_END, COLUMN = 13, 9, 10, 14
ADDED = 8
SCALED = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}


@dataclass(frozen=True, eq=False)
class Molmo2(Case):
    """A picture is as many crops wide and high as its sides hold, and one that shows it whole.

    Its LLM is that of OLMo 3: norms behind attention and MLP, of all heads together, rotary rows
    that are scaled in some layers.
    """

    clip: tuple[int, int, int] | None = (2, SIDE, SIDE)

    def config(self) -> Any:
        from transformers import Molmo2Config

        heads = {"num_attention_heads": HEADS, "num_key_value_heads": HEADS}
        heads["head_dim"] = WIDTH // HEADS
        sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, **heads}
        language = text(
            "molmo2_text",
            head_dim=WIDTH // HEADS,
            additional_vocab_size=ADDED,
            qk_norm_type="olmo",
            norm_after=True,
            rope_parameters=dict(SCALED),
            rope_scaling_layers=[1, 2],
        )
        return Molmo2Config(
            vision_config={
                "model_type": "molmo2_vision",
                "num_hidden_layers": BLOCKS,
                "image_size": [SIDE, SIDE],
                "patch_size": PATCH,
                **sizes,
            },
            adapter_config={
                "model_type": "molmo2_adapter",
                "vision_feature_layer": [BLOCKS - 1, 1],
                "text_hidden_size": WIDTH,
                **sizes,
            },
            text_config=language,
            image_patch_id=IMAGE,
            image_start_token_id=START,
            low_res_image_start_token_id=LOW,
            image_end_token_id=END,
            image_col_id=COLUMN,
            frame_start_token_id=FRAME_START,
            frame_end_token_id=FRAME_END,
        )

    @property
    def scenes(self) -> tuple[str, ...]:
        """No pictures beside clips: the model itself refuses them, having one placeholder."""
        return scenes.SCENES[:4]

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        (low, *_), (high, *_) = whole(), crops(image)
        first = [LOW, *[*[IMAGE] * low[1], COLUMN] * low[0], END]
        return [*first, START, *[*[IMAGE] * high[1], COLUMN] * high[0], END]

    def video_ids(self, video: Video) -> list[int]:
        row: list[int] = []
        for frame in range(video.frames):
            units = [IMAGE] * (CROP // POOL_FRAMES) ** 2
            row += [*words(2, 100 + frame), FRAME_START, *units, FRAME_END]
        return row

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        marks = torch.tensor([IMAGE, COLUMN, START, LOW, END, FRAME_START, FRAME_END])
        call = {"mm_token_type_ids": torch.isin(ids, marks).long()}
        images, clips = scenes.images(prompts), scenes.videos(prompts)
        if images:
            call |= _shown(images)
        if clips:
            call |= _clips(clips)
        return call


def whole() -> tuple[tuple[int, int], Tensor]:
    """Rows and columns of units of a whole picture, and their patches."""
    return _pooled(torch.arange(CROP**2).view(CROP, CROP), POOL)


def crops(image: Image) -> tuple[tuple[int, int], Tensor, int]:
    """The same of the map of a picture's crops, and how many these are."""
    down, across = image.height // SIDE, image.width // SIDE

    def axis(count: int) -> tuple[Tensor, Tensor]:
        """Of every patch of the map the crop that shows it, and its place there."""
        places = torch.arange(count * WINDOW + sum(MARGINS))
        crop = ((places - MARGINS[0]) // WINDOW).clamp(0, count - 1)
        return crop, places - crop * WINDOW

    (i, y), (j, x) = axis(down), axis(across)
    first = (i[:, None] * across + j) * CROP**2
    size, rows = _pooled(first + y[:, None] * CROP + x, POOL)
    return size, rows, down * across


def _pooled(patches: Tensor, side: int) -> tuple[tuple[int, int], Tensor]:
    """Squares of a map of patches, with -1 around the map, more of it behind."""
    high, wide = (-(-size // side) for size in patches.shape)
    rest = [high * side - patches.shape[0], wide * side - patches.shape[1]]
    around = (rest[1] // 2, rest[1] - rest[1] // 2, rest[0] // 2, rest[0] - rest[0] // 2)
    full = nn.functional.pad(patches, around, value=-1)
    squares = full.unflatten(0, (high, side)).unflatten(2, (wide, side)).transpose(1, 2)
    return (high, wide), squares.reshape(high * wide, side**2)


def _rows(frames: int, seed: int) -> Tensor:
    """Patches of pictures of one crop, whose order within the picture means nothing here."""
    return scenes.pixels(Video(frames, SIDE, SIDE, seed)).reshape(frames, CROP**2, -1)


def _shown(images: list[Image]) -> dict[str, Tensor]:
    pixels, grids, pooling, counts = [], [], [], list[int]()
    for image in images:
        (low, first), (high, rows, count) = whole(), crops(image)
        own = torch.cat((first, torch.where(rows < 0, rows, rows + CROP**2)))
        before = sum(counts) * CROP**2
        pooling.append(torch.where(own < 0, own, own + before))
        counts.append(1 + count)
        grids.append([*low, *high])
        pixels.append(_rows(1 + count, image.seed))
    return {
        "pixel_values": torch.cat(pixels),
        "image_token_pooling": torch.cat(pooling),
        "image_grids": torch.tensor(grids),
        "image_num_crops": torch.tensor(counts),
    }


def _clips(clips: list[Video]) -> dict[str, Tensor]:
    (high, wide), own = _pooled(torch.arange(CROP**2).view(CROP, CROP), POOL_FRAMES)
    frames = sum(clip.frames for clip in clips)
    return {
        "pixel_values_videos": torch.cat([_rows(clip.frames, clip.seed) for clip in clips]),
        "video_token_pooling": torch.cat([own + frame * CROP**2 for frame in range(frames)]),
        "video_grids": torch.tensor([[clip.frames, high, wide] for clip in clips]),
    }


CASES = (Molmo2("molmo2", "Molmo2ForConditionalGeneration", ((SIDE, SIDE), (SIDE, 2 * SIDE))),)
