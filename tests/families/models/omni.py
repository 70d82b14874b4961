"""The thinkers of Qwen2.5-Omni and Qwen3-Omni: the towers of Qwen-VL, and sound beside pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.models.common import (
    BLOCKS,
    BOS,
    END,
    HEADS,
    IMAGE,
    LAYERS,
    START,
    VIDEO,
    WIDTH,
    text,
)
from tests.families.models.qwen import GROUP, ROTARY, SECONDS_PER_GRID, Qwen2VL
from tests.families.scenes import Prompt, Text, Video

AUDIO, AUDIO_START, AUDIO_END = 10, 11, 12
MELS = 8
SECONDS = {"position_id_per_seconds": 2, "seconds_per_chunk": 2}
"""A clip's second frame begins at position 3, and its third in the next chunk."""


@dataclass(frozen=True, eq=False)
class Omni(Qwen2VL):
    """What both have in common: every prompt begins with some sound.

    Attributes:
        dubbed: whether clips bring their sound, whose tokens stand between those of the frames.
    """

    heard: ClassVar[tuple[str, ...]] = ("input_features", "feature_attention_mask")
    dubbed: bool = False
    spoken: ClassVar[int] = 14
    """Frames of sound in front of every prompt."""
    longest: ClassVar[int] = 24
    """Frames of sound of a clip."""

    def counted(self, frames: int) -> int:
        """How many tokens so many frames of sound become."""
        raise NotImplementedError

    def order(self, video: Video) -> list[int]:
        """Placeholders of a clip and its sound, in the order in which they stand."""
        raise NotImplementedError

    def missing(self, scene: str = "one") -> str | None:
        import transformers

        core = self.model_class.replace("ForConditionalGeneration", "Model")
        if hasattr(transformers, core):
            return None
        return f"transformers {transformers.__version__} has no {core}"

    def tokens(self) -> dict[str, int]:
        return {
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "audio_token_id": AUDIO,
            "vision_start_token_id": START,
            "vision_end_token_id": END,
            "audio_start_token_id": AUDIO_START,
            "audio_end_token_id": AUDIO_END,
        }

    def sound(self, inputs: dict[str, Tensor]) -> Tensor:
        return inputs["input_ids"] == AUDIO

    def audio(self, **changes: Any) -> dict[str, Any]:
        """Config of the tower of sound."""
        return {
            "num_mel_bins": MELS,
            "encoder_layers": 1,
            "encoder_attention_heads": HEADS,
            "encoder_ffn_dim": WIDTH,
            "d_model": WIDTH,
            "output_dim": WIDTH,
            "max_source_positions": 100,
            **changes,
        }

    def ids(self, prompt: Prompt) -> list[int]:
        sound = [AUDIO_START, *[AUDIO] * self.counted(self.spoken), AUDIO_END]
        return [BOS, *sound, *super().ids(prompt)[1:]]

    def video_ids(self, video: Video) -> list[int]:
        if not self.dubbed:
            return super().video_ids(video)
        return [START, AUDIO_START, *self.order(video), AUDIO_END, END]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Any]:
        call: dict[str, Any] = super().extras(ids, prompts)
        del call["mm_token_type_ids"]
        clips = scenes.videos(prompts)
        if clips:
            call["video_second_per_grid"] = torch.full((len(clips),), SECONDS_PER_GRID)
        return {**call, **self._sound(prompts)}

    def call(self, prompts: list[Prompt], padding: str, dtype: torch.dtype) -> dict[str, Any]:
        call: dict[str, Any] = super().call(prompts, padding, dtype)
        return {**call, "use_audio_in_video": True} if self.dubbed else call

    def _sound(self, prompts: list[Prompt]) -> dict[str, Tensor]:
        """Sounds `[n, MELS, F]` in the order of their placeholders, padded, and their masks."""
        lengths, sounds = [], []
        for prompt in prompts:
            seed = sum(part.start for part in prompt if isinstance(part, Text))
            wanted = [(self.spoken, seed)]
            if self.dubbed:
                wanted += [(self.longest, part.seed) for part in scenes.videos([prompt])]
            for length, number in wanted:
                lengths.append(length)
                sounds.append(scenes.pixels(Video(self.longest, 1, MELS, number))[:, 0, 0].T)
        frames = torch.arange(self.longest)
        return {
            "input_features": torch.stack(sounds),
            "feature_attention_mask": (frames < torch.tensor(lengths)[:, None]).long(),
        }


class Qwen25Omni(Omni):
    """Windows as in Qwen2.5-VL; chunks of frames and of sound take turns."""

    def config(self) -> Any:
        from transformers import Qwen2_5OmniThinkerConfig

        vision = self.vision(
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            out_hidden_size=WIDTH,
            window_size=2 * GROUP,
            fullatt_block_indexes=[1, 3],
        )
        return Qwen2_5OmniThinkerConfig(
            text_config=text("qwen2_5_omni_text", rope_parameters=dict(ROTARY)),
            vision_config=vision,
            audio_config=self.audio(n_window=4),
            **SECONDS,
            **self.tokens(),
        )

    def counted(self, frames: int) -> int:
        return ((frames - 1) // 2 + 1 - 2) // 2 + 1

    def order(self, video: Video) -> list[int]:
        chunk = SECONDS["position_id_per_seconds"] * SECONDS["seconds_per_chunk"]
        count, units = self.grid(video)[0], self._groups(video)
        step = SECONDS_PER_GRID * SECONDS["position_id_per_seconds"]
        frames = [(int(frame * step) // chunk, 0, VIDEO) for frame in range(count)]
        sounds = [(place // chunk, 1, AUDIO) for place in range(self.counted(self.longest))]
        row: list[int] = []
        for _, _, kind in sorted([*frames, *sounds]):
            row += [kind] * (units if kind == VIDEO else 1)
        return row


class Qwen3Omni(Omni):
    """Two DeepStack levels and experts; frames and tokens of sound stand in order of time."""

    def config(self) -> Any:
        from transformers import Qwen3OmniMoeThinkerConfig

        own = {
            "head_dim": WIDTH // HEADS,
            "rope_parameters": {**ROTARY, "mrope_interleaved": True},
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": WIDTH // 2,
            "mlp_only_layers": [LAYERS - 1],
        }
        vision = self.vision(
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            out_hidden_size=WIDTH,
            num_position_embeddings=64,
            deepstack_visual_indexes=[0, BLOCKS - 2],
        )
        return Qwen3OmniMoeThinkerConfig(
            text_config=text("qwen3_omni_moe_text", **own),
            vision_config=vision,
            audio_config=self.audio(n_window=50, downsample_hidden_size=4),
            position_id_per_seconds=SECONDS["position_id_per_seconds"],
            **self.tokens(),
        )

    def counted(self, frames: int) -> int:
        return (((frames - 1) // 2 + 1 - 1) // 2 + 1 - 1) // 2 + 1

    def order(self, video: Video) -> list[int]:
        count, units = self.grid(video)[0], self._groups(video)
        step = SECONDS_PER_GRID * SECONDS["position_id_per_seconds"]
        frames = [(frame * step, 0, VIDEO) for frame in range(count)]
        sounds = [(place, 1, AUDIO) for place in range(self.counted(self.longest))]
        row: list[int] = []
        for _, _, kind in sorted([*frames, *sounds]):
            row += [kind] * (units if kind == VIDEO else 1)
        return row


CASES = (
    Qwen25Omni("qwen2_5_omni", "Qwen2_5OmniThinkerForConditionalGeneration"),
    Qwen3Omni("qwen3_omni_moe", "Qwen3OmniMoeThinkerForConditionalGeneration"),
)
