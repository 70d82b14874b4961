"""Mistral 3, and LLaVA: a Pixtral tower for pictures of any shape, 2x2 patches a place, or one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import BREAK, END, HEADS, IMAGE, PATCH, WIDTH, text, tower
from tests.families.scenes import Image, Prompt

MERGE, LARGEST = 2, 64


def pixtral() -> dict[str, Any]:
    """Config of the tower."""
    return tower("pixtral", image_size=LARGEST, head_dim=WIDTH // HEADS)


@dataclass(frozen=True, eq=False)
class Mistral3(Case):
    """A text token ends every row of units, another one the picture.

    Attributes:
        merge: rows and columns of patches of a unit.
    """

    merge: int = MERGE

    def config(self) -> Any:
        from transformers import Mistral3Config

        return Mistral3Config(
            vision_config=pixtral(),
            text_config=text("mistral", head_dim=WIDTH // HEADS, sliding_window=None),
            image_token_index=IMAGE,
            spatial_merge_size=MERGE,
            vision_feature_layer=-1,
            tie_word_embeddings=False,
        )

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        unit = PATCH * self.merge
        row = [*[IMAGE] * (image.width // unit), BREAK]
        return [*(row * (image.height // unit))[:-1], END]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        return scenes.padded(prompts)


@dataclass(frozen=True, eq=False)
class LlavaPixtral(Mistral3):
    """LLaVA around the same tower, every patch a place."""

    merge: int = 1

    def config(self) -> Any:
        from transformers import LlavaConfig

        return LlavaConfig(
            vision_config=pixtral(),
            text_config=text("mistral", head_dim=WIDTH // HEADS, sliding_window=None),
            image_token_index=IMAGE,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )


@dataclass(frozen=True, eq=False)
class LightOnOcr(Mistral3):
    """The same tower under another name, without tokens between rows, and tied embeddings."""

    def config(self) -> Any:
        from transformers import LightOnOcrConfig

        return LightOnOcrConfig(
            vision_config=pixtral(),
            text_config=text("qwen3", head_dim=WIDTH // HEADS, sliding_window=None),
            image_token_id=IMAGE,
            spatial_merge_size=MERGE,
        )

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        unit = PATCH * self.merge
        return [IMAGE] * (image.width // unit * (image.height // unit))


class MistralLarge4(Mistral3):
    """Keys that an indexer chooses, queries that are scaled by their places.

    Layer 1 takes the keys of layer 0 and its choice, and layer 3 rotates nothing.
    """

    def config(self) -> Any:
        from transformers import MistralLarge4Config

        own: dict[str, Any] = {
            "num_key_value_heads": HEADS,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 10,
            "n_routed_experts": 4,
            # of one expert the weight is 1, and not the router's, which is rounded to float32
            "num_experts_per_tok": 1,
            "moe_intermediate_size": WIDTH // 2,
            "no_rope_layers": [1, 1, 1, 0],
            "kv_source_layers": [0, 0, 2, 3],
            "indexer_types": ["full", "shared", "full", "full"],
            # fewer tokens than any prompt has; of few heads, several might have a score of zero
            "index_topk": 8,
            "index_n_heads": 4 * HEADS,
            "index_head_dim": 8,
        }
        return MistralLarge4Config(
            vision_config=pixtral(),
            text_config=text("mistral_large4_text", **own),
            image_token_index=IMAGE,
            spatial_merge_size=MERGE,
            vision_feature_layer=-1,
        )


CASES = (
    Mistral3("mistral3", "Mistral3ForConditionalGeneration", ((32, 64), (48, 32))),
    MistralLarge4("mistral_large4", "MistralLarge4ForConditionalGeneration", ((32, 64), (48, 32))),
    LightOnOcr("lighton_ocr", "LightOnOcrForConditionalGeneration", ((32, 64), (48, 32))),
    LlavaPixtral("llava_pixtral", "LlavaForConditionalGeneration", ((24, 32), (32, 16))),
)
