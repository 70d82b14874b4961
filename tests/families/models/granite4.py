"""Granite 4 Vision: LLaVA-NeXT's tiles, whose features enter in front of layers of the LLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.families.models.common import IMAGE, PATCH, siglip, text
from tests.families.models.tiled import LlavaNext

SIDE = 64
QUERIES, WINDOW = 2, 4
"""Queries along the side of a window, and patches along it."""
TOWER = 64
"""Channels of the tower: those of one head of the queries."""
LEVELS = [[-3, 2], [-1, 0]]
"""Blocks of the tower, and layers of the LLM that their features enter in front of."""
CORNERS = [3, 3, 12, 12]
"""The same of every corner of a square: the last of several wins, and the LLM has no layer 12."""


@dataclass(frozen=True, eq=False)
class Granite4Vision(LlavaNext):
    """Windows of 4 x 4 patches become 2 x 2 tokens of a tile."""

    side: int = SIDE

    @property
    def patches(self) -> int:
        """Tokens along a tile's side."""
        return self.side // PATCH * QUERIES // WINDOW

    def config(self) -> Any:
        from transformers import Granite4VisionConfig

        scales = {
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.7,
            "logits_scaling": 2.0,
        }
        return Granite4VisionConfig(
            vision_config=siglip(self.side, hidden_size=TOWER),
            text_config=text("granite4_vision_text", **scales),
            qformer_config={
                "model_type": "blip_2_qformer",
                "hidden_size": TOWER,
                "encoder_hidden_size": TOWER,
                "intermediate_size": TOWER,
                "num_attention_heads": 1,
                "num_hidden_layers": 1,
                "cross_attention_frequency": 1,
                "use_qformer_text_input": False,
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
            },
            projector_dropout=0.0,
            image_token_index=IMAGE,
            image_grid_pinpoints=self.pinpoints,
            vision_feature_select_strategy="full",
            downsample_rate=f"{QUERIES}/{WINDOW}",
            deepstack_layer_map=LEVELS,
            spatial_target_layers=CORNERS,
        )


KIND = "Granite4VisionForConditionalGeneration"
CASES = (Granite4Vision("granite4_vision", KIND, ((64, 60), (80, 120))),)
