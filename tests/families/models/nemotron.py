"""Nemotron 3 Omni: pictures of any size in one row, clips in stacks of frames, four mixers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import (
    BLOCKS,
    BREAK,
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

MERGE, TEMPORAL, MELS = 2, 2, 16
UNIT = MERGE * PATCH


@dataclass(frozen=True, eq=False)
class Nemotron(Case):
    """A layer with a Mamba mixer, two with attention, and one of experts in front of the last."""

    sizes: tuple[tuple[int, int], tuple[int, int]] = ((32, 64), (48, 32))
    clip: tuple[int, int, int] | None = (6, 32, 48)
    # Mamba's states, norms and routing are in float32 whatever the dtype; 5e-7 was measured
    rounding: float = 1e-5

    def config(self) -> Any:
        from transformers import NemotronH_Omni_Reasoning_V3_Config

        language = text(
            "nemotron_h",
            head_dim=WIDTH // HEADS,
            layers_block_type=["linear_attention", "full_attention", "moe", "full_attention"],
            mamba_num_heads=4,
            mamba_head_dim=8,
            n_groups=2,
            ssm_state_size=8,
            chunk_size=4,
            n_routed_experts=4,
            moe_intermediate_size=WIDTH // 2,
            moe_shared_expert_intermediate_size=WIDTH // 2,
        )
        vision = {
            "model_type": "radio",
            "hidden_size": WIDTH,
            "num_hidden_layers": BLOCKS // 2,
            "num_attention_heads": HEADS,
            "mlp_ratio": 2.0,
            "patch_size": PATCH,
            "max_img_size": 8 * PATCH,
            "num_registers": 1,
            "video_temporal_patch_size": TEMPORAL,
        }
        return NemotronH_Omni_Reasoning_V3_Config(
            vision_config=vision,
            text_config=language,
            vision_hidden_size=WIDTH,
            projector_hidden_size=WIDTH,
            image_token_id=IMAGE,
            audio_token_id=BREAK,
        )

    @property
    def scenes(self) -> tuple[str, ...]:
        """No pictures beside clips: the model itself refuses them, having one placeholder."""
        return scenes.SCENES[:4]

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [START, *[IMAGE] * _places(image), END]

    def video_ids(self, video: Video) -> list[int]:
        row: list[int] = []
        for number in range(video.frames // TEMPORAL):
            row += [*words(2, 100 + number), START, *[IMAGE] * _places(video), END]
        return row

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        call = {}
        shown, clips = scenes.images(prompts), scenes.videos(prompts)
        if shown:
            grids = [[image.height // PATCH, image.width // PATCH] for image in shown]
            rows = [
                scenes.pixels(Video(high * wide, PATCH, PATCH, image.seed)).flatten(1)
                for image, (high, wide) in zip(shown, grids, strict=True)
            ]
            call |= {"pixel_values": torch.cat(rows), "image_grid_hw": torch.tensor(grids)}
        if clips:
            frames = torch.stack([scenes.pixels(clip) for clip in clips])
            call["pixel_values_videos"] = frames.unflatten(1, (-1, TEMPORAL)).flatten(2, 3)
        return call


def _places(part: Image | Video) -> int:
    return (part.height // UNIT) * (part.width // UNIT)


CASES = (Nemotron("nemotron_h_omni", "NemotronH_Omni_Reasoning_V3"),)
