"""Apertus 1.5: pictures and sound become codes, which are words of the LLM's vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import (
    BOS,
    BREAK,
    END,
    IMAGE,
    PATCH,
    START,
    VOCABULARY,
    text,
)
from tests.families.scenes import Image, Prompt, Text, Video

AUDIO, AUDIO_START, AUDIO_END, HEADER = 10, 11, 12, 13
MARKS = [AUDIO_START, AUDIO_END, HEADER, START, END, BREAK]
CODES, SOUNDS = 64, 16
HOP, SPOKEN = 4, 3
"""Samples of a code of sound, and the codes in front of every prompt."""


@dataclass(frozen=True, eq=False)
class Apertus(Case):
    """The head knows words alone, as in released models; every prompt begins with some sound."""

    heard: ClassVar[tuple[str, ...]] = ("input_values", "padding_mask")

    def config(self) -> Any:
        from transformers import Apertus1p5Config

        language = text(
            "apertus1p5_text",
            vocab_size=VOCABULARY + CODES + SOUNDS,
            output_vocab_size=VOCABULARY,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        )
        return Apertus1p5Config(
            text_config=language,
            vision_config={
                "codebook_size": CODES,
                "embed_dim": 8,
                "latent_channels": 8,
                # of as many channels as there are groups that are normed
                "base_channels": 32,
                "channel_multiplier": [1, 1, 1, 1],
                "num_res_blocks": 1,
                "attn_resolutions": [2],
                "resolution": 2 * PATCH,
            },
            audio_config={
                "model_type": "wavtokenizer_encoder",
                "num_filters": 4,
                "upsampling_ratios": [2, 2],
                "num_lstm_layers": 1,
                "hidden_size": 8,
                "codebook_dim": 8,
                "codebook_size": SOUNDS,
            },
            image_token_id=IMAGE,
            audio_token_id=AUDIO,
            image_token_offset=VOCABULARY,
            audio_token_offset=VOCABULARY + CODES,
        )

    def functions(self, attention: str) -> str | dict[str, str]:
        return {"text_config": attention, "vision_config": "eager", "audio_config": "eager"}

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        row = [*[IMAGE] * (image.width // PATCH), BREAK]
        return [START, HEADER, *(row * (image.height // PATCH))[:-1], END]

    def ids(self, prompt: Prompt) -> list[int]:
        return [BOS, AUDIO_START, *[AUDIO] * SPOKEN, AUDIO_END, *super().ids(prompt)[1:]]

    def sound(self, inputs: dict[str, Tensor]) -> Tensor:
        return inputs["input_ids"] == AUDIO

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        seeds = [sum(part.start for part in row if isinstance(part, Text)) for row in prompts]
        samples = HOP * SPOKEN
        sounds = [scenes.pixels(Video(1, 1, samples, seed))[0, :1, 0] for seed in seeds]
        heard = {
            "input_values": torch.stack(sounds),
            "padding_mask": torch.ones(len(sounds), samples, dtype=torch.long),
        }
        return {**scenes.padded(prompts), **heard}


CASES = (Apertus("apertus1p5", "Apertus1p5ForConditionalGeneration", ((32, 64), (48, 32))),)
