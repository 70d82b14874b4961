"""Gemma 3n: a convolutional tower of timm, streams of every token, shared keys, sound."""

from __future__ import annotations

import importlib.util
from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import (
    BOS,
    HEADS,
    IMAGE,
    LAYERS,
    START,
    VOCABULARY,
    WIDTH,
    text,
)
from tests.families.scenes import Image, Prompt, Text, Video

SIDE = 96
UNITS = (SIDE // 32) ** 2
WINDOW = 12
STREAMS, ACTIVE, LAUREL = 3, 1, 8
OWN = 8
"""Width of the inputs that every layer gets of its own."""
TYPES = ["sliding_attention", *["full_attention"] * 3]
AUDIO, AUDIO_START, AUDIO_END = 10, 11, 12
VISION_FIRST = VOCABULARY - 8
AUDIO_FIRST = VOCABULARY - 4
END = VISION_FIRST + 1
"""The end of a picture has its embedding beside the tower, not in the LLM's table."""
MELS, FRAMES, HEARD = 8, 32, 4
"""Channels of sound, frames of each prompt's sound, and tokens that it becomes."""


class Gemma3n(Case):
    """The last layer reads the keys of the one before; every prompt begins with some sound."""

    heard: ClassVar[tuple[str, ...]] = ("input_features", "input_features_mask")

    def config(self) -> Any:
        from transformers import Gemma3nConfig

        language = text(
            "gemma3n_text",
            head_dim=WIDTH // HEADS,
            layer_types=list(TYPES),
            sliding_window=WINDOW,
            num_kv_shared_layers=1,
            hidden_size_per_layer_input=OWN,
            vocab_size_per_layer_input=VISION_FIRST,
            altup_num_inputs=STREAMS,
            altup_active_idx=ACTIVE,
            laurel_rank=LAUREL,
            activation_sparsity_pattern=[0.5, 0.5, *[0.0] * (LAYERS - 2)],
        )
        return Gemma3nConfig(
            text_config=language,
            vision_config={
                "model_type": "gemma3n_vision",
                "architecture": "test_convnext",
                "model_args": {"dims": [8, 8, 16, WIDTH], "depths": [1, 1, 1, 1]},
                "hidden_size": WIDTH,
                "vocab_offset": VISION_FIRST,
                "vocab_size": AUDIO_FIRST - VISION_FIRST,
            },
            audio_config={
                "hidden_size": WIDTH,
                "vocab_offset": AUDIO_FIRST,
                "vocab_size": VOCABULARY - AUDIO_FIRST,
                "input_feat_size": MELS,
                "conf_attention_chunk_size": 4,
                "conf_attention_context_left": 5,
                "conf_num_attention_heads": HEADS,
                "conf_num_hidden_layers": 1,
                "sscp_conv_channel_size": [4, 4],
            },
            vision_soft_tokens_per_image=UNITS,
            audio_soft_tokens_per_image=HEARD,
            image_token_id=IMAGE,
            audio_token_id=AUDIO,
            boi_token_id=START,
            eoi_token_id=END,
            boa_token_id=AUDIO_START,
            eoa_token_id=AUDIO_END,
        )

    def missing(self, scene: str = "one") -> str | None:
        """The tower is timm's, which imports torchvision."""
        absent = [
            name for name in ("timm", "torchvision") if importlib.util.find_spec(name) is None
        ]
        if absent:
            return f"the tower needs {' and '.join(absent)}"
        return super().missing(scene)

    def sound(self, inputs: dict[str, Tensor]) -> Tensor:
        return inputs["input_ids"] == AUDIO

    def ids(self, prompt: Prompt) -> list[int]:
        return [BOS, AUDIO_START, *[AUDIO] * HEARD, AUDIO_END, *super().ids(prompt)[1:]]

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [START, *[IMAGE] * UNITS, END]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        shown = [scenes.pixels(image) for image in scenes.images(prompts)]
        seeds = [sum(part.start for part in row if isinstance(part, Text)) for row in prompts]
        sounds = [scenes.pixels(Video(FRAMES, 1, MELS, seed))[:, 0, 0] for seed in seeds]
        pixels = {"pixel_values": torch.stack(shown)} if shown else {}
        heard = torch.stack(sounds)
        kinds = (ids == IMAGE).long() + 3 * (ids == AUDIO).long()
        return {
            **pixels,
            "token_type_ids": kinds,
            "input_features": heard,
            "input_features_mask": torch.ones(heard.shape[:2], dtype=torch.bool),
        }


CASES = (Gemma3n("gemma3n", "Gemma3nForConditionalGeneration", ((SIDE, SIDE), (SIDE, SIDE))),)
