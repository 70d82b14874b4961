"""Muse Glimmer and Muse Spark: windows of patches in the tower, squares of them a place.

Every other layer of the LLM has a window, and those without don't rotate. Muse Spark has experts
and hears.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import (
    BLOCKS,
    BOS,
    BREAK,
    END,
    HEADS,
    IMAGE,
    PATCH,
    START,
    VIDEO,
    WIDTH,
    text,
    words,
)
from tests.families.scenes import Image, Prompt, Text, Video

MERGE, TEMPORAL, SIDE = 2, 2, 4
"""Rows and columns of patches of a place, frames that it spans, and the side of a window."""
UNIT = MERGE * PATCH
WINDOW = 12
AUDIO, AUDIO_START, AUDIO_END = 10, 11, 12
SOUND, SPOKEN = 8, 2
"""Samples in front of every prompt, and the tokens that they become."""


@dataclass(frozen=True, eq=False)
class MuseGlimmer(Case):
    """A clip is written frame by frame, with times in front."""

    sizes: tuple[tuple[int, int], tuple[int, int]] = ((32, 64), (48, 32))
    clip: tuple[int, int, int] | None = (4, 32, 48)
    kind: ClassVar[str] = "muse_glimmer"

    def config(self) -> Any:
        from transformers import MuseGlimmerConfig

        return MuseGlimmerConfig(**self.settings())

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Arguments of the config."""
        return {
            "vision_config": {
                "model_type": f"{self.kind}_vision",
                "hidden_size": WIDTH,
                "intermediate_size": 2 * WIDTH,
                "num_hidden_layers": BLOCKS,
                "num_attention_heads": HEADS,
                "patch_size": PATCH,
                "patch_temporal": TEMPORAL,
                "merge_size": MERGE,
                "pos_emb_height": SIDE,
                "pos_emb_width": SIDE,
                "layer_types": ["window_attention", "full_attention"] * 2,
            },
            "text_config": text(
                f"{self.kind}_text",
                head_dim=WIDTH // HEADS,
                layer_types=["sliding_attention", "full_attention"] * 2,
                layer_rope_theta=[10000.0, 0] * 2,
                sliding_window=WINDOW,
                **changes,
            ),
            "out_hidden_size": WIDTH * MERGE**2,
            "projector_hidden_size": 40,
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
        }

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [START, *[IMAGE] * _places(image), END]

    def video_ids(self, video: Video) -> list[int]:
        row, frames = [START], video.frames // TEMPORAL
        for frame in range(frames):
            row += [*words(2, 100 + frame), *[VIDEO] * _places(video), BREAK]
        return [*row[:-1], END]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        return scenes.packed(scenes.images(prompts), scenes.videos(prompts), _patches, _grid)


class MuseSpark(MuseGlimmer):
    """Experts behind a dense layer; every prompt begins with some sound."""

    kind: ClassVar[str] = "muse_spark"
    heard: ClassVar[tuple[str, ...]] = ("input_values", "input_values_mask")

    def config(self) -> Any:
        from transformers import MuseSparkConfig

        sound = {
            "patch_sizes": [2, SOUND // SPOKEN // 2],
            "hidden_sizes": [8, 8],
            "depths": [1, 1],
            "num_hidden_layers": 2,
            "out_hidden_size": WIDTH,
        }
        own = self.settings(
            mlp_layer_types=["dense", "sparse"] * 2,
            moe_hidden_size=WIDTH // 2,
            moe_intermediate_size=WIDTH // 2,
            num_local_experts=4,
            num_experts_per_tok=2,
        )
        return MuseSparkConfig(**own, audio_config=sound, audio_token_id=AUDIO)

    def create(self, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
        in_double()
        return super().create(dtype, attention)

    def ids(self, prompt: Prompt) -> list[int]:
        return [BOS, AUDIO_START, *[AUDIO] * SPOKEN, AUDIO_END, *super().ids(prompt)[1:]]

    def sound(self, inputs: dict[str, Tensor]) -> Tensor:
        return inputs["input_ids"] == AUDIO

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        seeds = [sum(one.start for one in row if isinstance(one, Text)) for row in prompts]
        sounds = [scenes.pixels(Image(1, SOUND, seed))[0, 0] for seed in seeds]
        mask = torch.ones(len(sounds), SOUND, dtype=torch.int64)
        heard = {"input_values": torch.stack(sounds), "input_values_mask": mask}
        return {**super().extras(ids, prompts), **heard}


def _grid(part: Image | Video) -> list[int]:
    frames = part.frames // TEMPORAL if isinstance(part, Video) else 1
    return [frames, part.height // PATCH, part.width // PATCH]


def _places(part: Image | Video) -> int:
    return (part.height // UNIT) * (part.width // UNIT)


def _patches(part: Image | Video) -> Tensor:
    """Random patches `[P, d]`: what they show of the picture means nothing here."""
    frames, height, width = _grid(part)
    count = frames * height * width
    return scenes.pixels(Video(count, TEMPORAL * PATCH, PATCH, part.seed)).flatten(1)


def in_double() -> None:
    """The library routes in float32, by products whose rounding depends on the other rows."""
    from transformers.models.muse_spark import modeling_muse_spark as modeling

    def routed(router: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.promote_types(hidden_states.dtype, torch.float32)
        rows = hidden_states.view(-1, router.hidden_dim).to(wide)
        logits = nn.functional.linear(rows, router.weight.to(wide)) * router.output_multiplier
        scores = logits.sigmoid()
        chosen = (scores + router.e_score_correction_bias).topk(router.top_k, sorted=False).indices
        weights = scores.gather(1, chosen)
        weights = weights / (weights.sum(dim=-1, keepdim=True) + router.norm_topk_prob_eps)
        return logits, weights * router.routed_scaling_factor, chosen

    modeling.MuseSparkTopkRouter.forward = routed


CASES = (
    MuseGlimmer("muse_glimmer", "MuseGlimmerForConditionalGeneration"),
    MuseSpark("muse_spark", "MuseSparkForConditionalGeneration"),
)
