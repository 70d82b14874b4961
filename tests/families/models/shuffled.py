"""InternVL, Qianfan-OCR, Idefics3 and SmolVLM: tiles, 2x2 patches shuffled into one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import (
    BREAK,
    END,
    IMAGE,
    PATCH,
    START,
    text,
    tower,
    words,
)
from tests.families.scenes import Image, Prompt, Video

SIDE, MERGE = 48, 2
UNITS = (SIDE // PATCH // MERGE) ** 2
WHOLE, TURN, TILE = BREAK + 1, BREAK + 2, BREAK + 3
SIZES = ((SIDE, SIDE), (SIDE, 2 * SIDE))


def tiles(image: Image) -> int:
    """Tiles of a picture whose sides are multiples of a tile's; several get an overview, too."""
    count = (image.height // SIDE) * (image.width // SIDE)
    return count + 1 if count > 1 else 1


def stack(part: Image | Video) -> Tensor:
    """Random tiles `[n, 3, SIDE, SIDE]` of a picture, or frames of a clip."""
    count = part.frames if isinstance(part, Video) else tiles(part)
    return scenes.pixels(Video(count, SIDE, SIDE, part.seed))


def parts(prompt: Prompt) -> list[Image | Video]:
    """Pictures and clips, in prompt order."""
    return [part for part in prompt if isinstance(part, Image | Video)]


class InternVL(Case):
    """Tiles flat over the batch; a clip's frames are pictures behind words."""

    def config(self) -> Any:
        from transformers import InternVLConfig

        return InternVLConfig(
            vision_config=self.vision(use_qk_norm=True), text_config=text("qwen2"), **self.rest()
        )

    def vision(self, **changes: Any) -> dict[str, Any]:
        """Config of the tower."""
        sizes = {"image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]}
        return tower(**sizes, attention_bias=True, **changes)

    def rest(self) -> dict[str, Any]:
        """What else the config says."""
        return {
            "image_token_id": IMAGE,
            "image_seq_length": UNITS,
            "downsample_ratio": 1 / MERGE,
            "tie_word_embeddings": False,
        }

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [START, *[IMAGE] * UNITS * tiles(image), END]

    def video_ids(self, video: Video) -> list[int]:
        row: list[int] = []
        for frame in range(video.frames):
            row += [*words(2, 100 + frame), START, *[IMAGE] * UNITS, END]
        return row

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        shown = [stack(part) for prompt in prompts for part in parts(prompt)]
        return {"pixel_values": torch.cat(shown)} if shown else {}


class QianfanOcr(InternVL):
    """The same in front of Qwen3, without clips."""

    def config(self) -> Any:
        from transformers import QianfanOCRConfig

        return QianfanOCRConfig(
            vision_config=self.vision(drop_path_rate=0.0), text_config=text("qwen3"), **self.rest()
        )


@dataclass(frozen=True, eq=False)
class Idefics3(Case):
    """Tiles of each prompt in a row of their own, text between the tiles."""

    kind: str = "Idefics3"

    def config(self) -> Any:
        import transformers

        config = getattr(transformers, f"{self.kind}Config")
        return config(
            vision_config=tower(image_size=SIDE),
            text_config=text("llama"),
            image_token_id=IMAGE,
            scale_factor=MERGE,
        )

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        row: list[int] = []
        for tag in [*range(TILE, TILE + tiles(image) - 1), WHOLE]:
            row += [START, tag, *[IMAGE] * UNITS]
        return [*row, START]

    def video_ids(self, video: Video) -> list[int]:
        frame = Image(SIDE, SIDE)
        return [
            i for n in range(video.frames) for i in (*words(2, 100 + n), *self.image_ids(frame, ()))
        ]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        rows = [[stack(part) for part in parts(prompt)] for prompt in prompts]
        longest = max(sum(map(len, row)) for row in rows)
        if not longest:
            return {}
        pixels = torch.zeros(len(rows), longest, 3, SIDE, SIDE, dtype=torch.float64)
        mask = torch.zeros(len(rows), longest, SIDE, SIDE, dtype=torch.long)
        for number, row in enumerate(rows):
            for place, tile in enumerate(tile for tiles_ in row for tile in tiles_):
                pixels[number, place] = tile
                mask[number, place] = 1
        return {"pixel_values": pixels, "pixel_attention_mask": mask}


CLIP = (2, SIDE, SIDE)
CASES = (
    InternVL("internvl", "InternVLForConditionalGeneration", SIZES, CLIP),
    QianfanOcr("qianfan_ocr", "QianfanOCRForConditionalGeneration", SIZES),
    Idefics3("idefics3", "Idefics3ForConditionalGeneration", SIZES),
    Idefics3("smolvlm", "SmolVLMForConditionalGeneration", SIZES, CLIP, kind="SmolVLM"),
)
