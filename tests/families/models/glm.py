"""GLM-4.1V to GLM-4.6V and GLM-OCR: packed towers, clips as pictures with times between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tests.families import scenes
from tests.families.models.common import END, HEADS, IMAGE, START, VIDEO, WIDTH, text, words
from tests.families.models.qwen import PATCH, ROTARY, Qwen2VL
from tests.families.scenes import Prompt, Video

CLIP_START, CLIP_END = 9, 10
WIDE = {"num_attention_heads": 2, "num_key_value_heads": 1}
"""Heads of 16 channels, of which half are rotated."""
EXPERTS = {
    "head_dim": WIDTH // 2,
    "moe_intermediate_size": WIDTH // 2,
    "n_routed_experts": 4,
    # of one expert the weight is 1, and not the router's, which is rounded to float32
    "num_experts_per_tok": 1,
    "first_k_dense_replace": 1,
}


@dataclass(frozen=True, eq=False)
class Glm4v(Qwen2VL):
    """A learned grid of 8x8 positions, resampled; channels turn in pairs in the LLM."""

    kind: str = "glm4v"

    def config(self) -> Any:
        import transformers as hf

        config = {"glm4v": hf.Glm4vConfig, "glm46v": hf.Glm46VConfig}[self.kind]
        return config(
            text_config=text("glm4v_text", rope_parameters=self.rotary(), **WIDE),
            vision_config=self.glm_vision("glm4v_vision", image_size=8 * PATCH),
            **self.tokens(),
        )

    def rotary(self) -> dict[str, Any]:
        """Of half of the channels of a head, in sections for time, height and width."""
        return {**ROTARY, "partial_rotary_factor": 0.5}

    def glm_vision(self, kind: str, **changes: Any) -> dict[str, Any]:
        """Config of a tower."""
        sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "out_hidden_size": WIDTH}
        return self.vision(model_type=kind, **sizes, **changes)

    def tokens(self) -> dict[str, int]:
        """Ids of the config; that of clips never stands in a prompt."""
        given = super().tokens()
        ends = {"image_start": START, "image_end": END}
        ends |= {"video_start": CLIP_START, "video_end": CLIP_END}
        return {
            **{name: value for name, value in given.items() if not name.startswith("vision")},
            **{f"{name}_token_id": value for name, value in ends.items()},
        }

    @property
    def scenes(self) -> tuple[str, ...]:
        """No pictures beside clips: the model itself refuses them, having one placeholder."""
        return scenes.SCENES[:4]

    def video_ids(self, video: Video) -> list[int]:
        row = [CLIP_START]
        for frame in range(self.grid(video)[0]):
            row += [START, *[IMAGE] * self._groups(video), END, *words(2, 100 + frame)]
        return [*row, CLIP_END]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        inside = (ids == CLIP_START).cumsum(-1) > (ids == CLIP_END).cumsum(-1)
        kinds = (ids == IMAGE).long() * (1 + inside.long())
        return {**super().extras(ids, prompts), "mm_token_type_ids": kinds}


class Glm4vMoe(Glm4v):
    """GLM-4.5V: experts behind a dense first layer, halves turn together."""

    def config(self) -> Any:
        from transformers import Glm4vMoeConfig

        return Glm4vMoeConfig(
            text_config=text("glm4v_moe_text", rope_parameters=self.rotary(), **EXPERTS),
            vision_config=self.glm_vision("glm4v_moe_vision", image_size=8 * PATCH),
            **self.tokens(),
        )


class GlmOcr(Glm4v):
    """A tower with normed heads and no learned positions."""

    def config(self) -> Any:
        from transformers import GlmOcrConfig

        return GlmOcrConfig(
            text_config=text("glm_ocr_text", rope_parameters=dict(ROTARY)),
            vision_config=self.glm_vision("glm_ocr_vision"),
            **self.tokens(),
        )


@dataclass(frozen=True, eq=False)
class Glm5Next(Glm4v):
    """Every other layer with attention to pools of keys that an indexer selects, two streams.

    The LLM rotates nothing, and clips may stand beside pictures.
    """

    # norms, routers and linear attention round to float32 whatever the dtype
    rounding: float = 1e-4

    def config(self) -> Any:
        from transformers import Glm5NextConfig

        own: dict[str, Any] = {
            "num_key_value_heads": HEADS,
            "layer_types": ["linear_attention", "full_attention"] * 2,
            "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
            "linear_num_heads": 2,
            "linear_head_dim": 8,
            "q_lora_rank": 12,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "v_head_dim": 10,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": WIDTH // 2,
            "hc_mult": 2,
            # fewer tokens than any prompt has
            "index_topk": 8,
            "index_kpool": 2,
            # of few heads, several pools might have a score of zero
            "index_n_heads": 4 * HEADS,
            "index_head_dim": 8,
        }
        return Glm5NextConfig(
            text_config=text("glm5_next_text", **own),
            vision_config=self.glm_vision("glm5_next_vision", projection_intermediate_size=WIDTH),
            **self.tokens(),
        )

    @property
    def scenes(self) -> tuple[str, ...]:
        return scenes.SCENES

    def told_apart(self, ids: Tensor) -> Tensor:
        inside = (ids == CLIP_START).cumsum(-1) > (ids == CLIP_END).cumsum(-1)
        return ids.masked_fill((ids == IMAGE) & inside, VIDEO)


CASES = (
    Glm4v("glm4v", "Glm4vForConditionalGeneration"),
    Glm4v("glm46v", "Glm46VForConditionalGeneration", kind="glm46v"),
    Glm4vMoe("glm4v_moe", "Glm4vMoeForConditionalGeneration"),
    GlmOcr("glm_ocr", "GlmOcrForConditionalGeneration"),
    Glm5Next("glm5_next", "Glm5NextForConditionalGeneration"),
)
