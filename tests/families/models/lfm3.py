"""LFM3-VL: a packed tower of convolutions and attention, an LLM of convolutions and windows."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tests.families.case import Case
from tests.families.models.common import BLOCKS, HEADS, WIDTH, text
from tests.families.models.qwen import MERGE, PATCH, TEMPORAL, Qwen3VL
from tests.families.scenes import Prompt

WINDOW = 12


class Lfm3VL(Qwen3VL):
    """Layers in the order of released models; rotary rows of two kinds, positions of one axis."""

    def config(self) -> Any:
        from transformers import Lfm3VlConfig

        language = text(
            "lfm3",
            head_dim=WIDTH // HEADS,
            layer_types=["conv", "full_attention", "conv", "sliding_attention"],
            sliding_window=WINDOW,
            conv_L_cache=5,
        )
        vision = {
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": BLOCKS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": 2,
            "patch_size": PATCH,
            "temporal_patch_size": TEMPORAL,
            "spatial_merge_size": MERGE,
        }
        return Lfm3VlConfig(
            vision_config=vision, text_config=language, projector_hidden_size=40, **self.tokens()
        )

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        call = super().extras(ids, prompts)
        del call["mm_token_type_ids"]
        return call

    def positions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return Case.positions(self, inputs)


CASES = (Lfm3VL("lfm3_vl", "Lfm3VlForConditionalGeneration"),)
