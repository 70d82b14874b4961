"""Qwen2-VL to Qwen4-Exp: packed towers, groups of 2x2 patches, M-RoPE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import BLOCKS, END, HEADS, IMAGE, START, VIDEO, WIDTH, text, words
from tests.families.scenes import Image, Prompt, Video

PATCH, MERGE, TEMPORAL = 4, 2, 2
GROUP = PATCH * MERGE
ROW = 3 * TEMPORAL * PATCH * PATCH
ROTARY = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
SECONDS_PER_GRID = 1.5


@dataclass(frozen=True, eq=False)
class Qwen2VL(Case):
    """Qwen2-VL; the later ones differ in their configs and in how clips are written."""

    sizes: tuple[tuple[int, int], tuple[int, int]] = ((16, 32), (24, 40))
    clip: tuple[int, int, int] | None = (6, 16, 24)

    def config(self) -> Any:
        from transformers import Qwen2VLConfig

        rotary = {"rope_parameters": dict(ROTARY)}
        vision = self.vision(embed_dim=WIDTH, hidden_size=WIDTH, mlp_ratio=2)
        return Qwen2VLConfig(
            text_config=text("qwen2_vl_text", **rotary), vision_config=vision, **self.tokens()
        )

    def vision(self, **changes: Any) -> dict[str, Any]:
        """Config of the tower."""
        return {
            "depth": BLOCKS,
            "num_heads": HEADS,
            "patch_size": PATCH,
            "temporal_patch_size": TEMPORAL,
            "spatial_merge_size": MERGE,
            "in_channels": 3,
            **changes,
        }

    def tokens(self) -> dict[str, int]:
        """Ids of the config."""
        return {
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "vision_start_token_id": START,
            "vision_end_token_id": END,
        }

    def grid(self, part: Image | Video) -> list[int]:
        """(t, h, w) in patches."""
        frames = part.frames // TEMPORAL if isinstance(part, Video) else 1
        return [frames, part.height // PATCH, part.width // PATCH]

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [START, *[IMAGE] * self._groups(image), END]

    def video_ids(self, video: Video) -> list[int]:
        return [START, *[VIDEO] * self._groups(video) * self.grid(video)[0], END]

    def _groups(self, part: Image | Video) -> int:
        return (part.height // GROUP) * (part.width // GROUP)

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        call = {"mm_token_type_ids": (ids == IMAGE).long() + 2 * (ids == VIDEO).long()}
        return call | scenes.packed(
            scenes.images(prompts), scenes.videos(prompts), self._rows, self.grid
        )

    def positions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """None: the model itself reads the mask for its positions in three axes."""
        return {}

    def _rows(self, part: Image | Video) -> Tensor:
        """Rows `[P, ROW]` of random patches: their order within the picture means nothing here."""
        patches, height, width = self.grid(part)
        frames = Video(patches * height * width, 1, ROW // 3, part.seed)
        return scenes.pixels(frames).flatten(1)


class Qwen25VL(Qwen2VL):
    """Windows of 2x2 groups, blocks 1 and 3 with attention over whole frames."""

    def config(self) -> Any:
        from transformers import Qwen2_5_VLConfig

        rotary = {"rope_parameters": dict(ROTARY)}
        vision = self.vision(
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            out_hidden_size=WIDTH,
            window_size=2 * GROUP,
            fullatt_block_indexes=[1, 3],
            tokens_per_second=2,
        )
        return Qwen2_5_VLConfig(
            text_config=text("qwen2_5_vl_text", **rotary), vision_config=vision, **self.tokens()
        )

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        call = super().extras(ids, prompts)
        clips = len(scenes.videos(prompts))
        if clips:
            call["second_per_grid_ts"] = torch.full((clips,), SECONDS_PER_GRID)
        return call


@dataclass(frozen=True, eq=False)
class Qwen3VL(Qwen2VL):
    """Two DeepStack levels; a clip is written frame by frame, with timestamps between."""

    kind: str = "qwen3_vl"

    def config(self) -> Any:
        import transformers as hf

        config = {"qwen3_vl": hf.Qwen3VLConfig, "qwen3_vl_moe": hf.Qwen3VLMoeConfig}[self.kind]
        own = {"head_dim": WIDTH // HEADS, "rope_parameters": dict(ROTARY)}
        if self.kind == "qwen3_vl_moe":
            own |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": WIDTH // 2}
        return config(
            text_config=text(f"{self.kind}_text", **own),
            vision_config=self.later_vision(deepstack_visual_indexes=[0, 2]),
            **self.tokens(),
        )

    def later_vision(self, **changes: Any) -> dict[str, Any]:
        """Config of a tower with a learned grid of 8x8 positions."""
        return self.vision(
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            out_hidden_size=WIDTH,
            num_position_embeddings=64,
            **changes,
        )

    def video_ids(self, video: Video) -> list[int]:
        row: list[int] = []
        for frame in range(self.grid(video)[0]):
            row += [*words(2, 100 + frame), START, *[VIDEO] * self._groups(video), END]
        return row


@dataclass(frozen=True, eq=False)
class Qwen35(Qwen3VL):
    """Three of four layers with linear attention, partial rotary."""

    # linear attention rounds to float32 whatever the dtype; 1.3e-5 was measured
    rounding: float = 1e-4

    def config(self) -> Any:
        import transformers as hf

        config = {"qwen3_5": hf.Qwen3_5Config, "qwen3_5_moe": hf.Qwen3_5MoeConfig}[self.kind]
        own: dict[str, Any] = {
            "head_dim": WIDTH // 2,
            "layer_types": [*["linear_attention"] * 3, "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "rope_parameters": {**ROTARY, "partial_rotary_factor": 0.5},
        }
        if self.kind == "qwen3_5_moe":
            own |= {
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": WIDTH // 2,
                "shared_expert_intermediate_size": WIDTH // 2,
            }
        return config(
            text_config=text(f"{self.kind}_text", **own),
            vision_config=self.later_vision(),
            **self.tokens(),
        )


@dataclass(frozen=True, eq=False)
class Qwen4Exp(Qwen35):
    """Every other layer with attention to blocks of keys that an indexer selects, four streams.

    Embeddings of n-grams are added in front of both layers with linear attention.
    """

    def config(self) -> Any:
        from transformers import Qwen4ExpConfig

        own: dict[str, Any] = {
            "head_dim": WIDTH // 2,
            "layer_types": ["linear_attention", "full_attention"] * 2,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "rope_parameters": {**ROTARY, "partial_rotary_factor": 0.5},
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": WIDTH // 2,
            "shared_expert_intermediate_size": WIDTH // 2,
            "hc_count": 2,
            "hc_lowrank": 8,
            "ple_layer_ids": [1, 3],
            "ple_embed_dim": WIDTH,
            "heads_per_ngram": 2,
            "ngram_vocab_size_base": 50,
            # fewer tokens than any prompt has
            "indexer_budget": 8,
            "indexer_compress_ratio": 2,
            # of few heads, several blocks might have a score of zero
            "indexer_n_heads": 4 * HEADS,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 8,
        }
        return Qwen4ExpConfig(
            text_config=text("qwen4_exp_text", **own),
            vision_config=self.later_vision(),
            **self.tokens(),
        )


CASES = (
    Qwen2VL("qwen2_vl", "Qwen2VLForConditionalGeneration"),
    Qwen25VL("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
    Qwen3VL("qwen3_vl", "Qwen3VLForConditionalGeneration"),
    Qwen3VL("qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration", kind="qwen3_vl_moe"),
    Qwen35("qwen3_5", "Qwen3_5ForConditionalGeneration", kind="qwen3_5"),
    Qwen35("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration", kind="qwen3_5_moe"),
    Qwen4Exp("qwen4_exp", "Qwen4ExpForConditionalGeneration"),
)
