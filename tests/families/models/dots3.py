"""dots3.note: a packed tower with experts, an LLM of windows and of keys that an indexer chooses.

Its layers with windows have heads of their own. Frames of clips are embedded one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import BLOCKS, BOS, HEADS, IMAGE, VIDEO, WIDTH, text
from tests.families.models.qwen import MERGE, PATCH, Qwen2VL
from tests.families.scenes import Image, Prompt, Text, Video

WINDOW = 12
AUDIO, AUDIO_START, AUDIO_END = 10, 11, 12
MELS, HOP, SPOKEN = 8, 2, 2
"""Rows of sound, samples of a column, and the tokens in front of every prompt."""
SHORTER = 8
"""Columns of sound that become a token."""


@dataclass(frozen=True, eq=False)
class Dots3Note(Qwen2VL):
    """Every prompt begins with some sound; positions count once."""

    clip: tuple[int, int, int] | None = (3, 16, 24)
    heard: ClassVar[tuple[str, ...]] = ("input_features", "chunk_sample_lengths")

    def config(self) -> Any:
        from transformers import Dots3NoteConfig

        own: dict[str, Any] = {
            "num_key_value_heads": HEADS,
            "layer_types": ["indexed_attention", "sliding_attention"] * 2,
            "sliding_window": WINDOW,
            "mlp_layer_types": ["dense", "sparse"] * 2,
            "q_lora_rank": 12,
            "kv_lora_rank": 16,
            "head_dim": 12,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 10,
            "swa_num_attention_heads": 2,
            "swa_num_key_value_heads": 2,
            "swa_q_lora_rank": 10,
            "swa_kv_lora_rank": 8,
            "swa_head_dim": 16,
            "swa_qk_nope_head_dim": 8,
            "swa_v_head_dim": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": WIDTH // 2,
            "shared_experts_intermediate_size": WIDTH // 2,
            # fewer tokens than any prompt has; of few heads, several might have a score of zero
            "index_topk": 8,
            "index_n_heads": 4 * HEADS,
            "index_head_dim": 8,
        }
        vision = {
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "moe_intermediate_size": WIDTH // 2,
            "num_hidden_layers": BLOCKS,
            "num_attention_heads": HEADS,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "adapter_in_dim": WIDTH,
            "adapter_out_dim": WIDTH,
            "pyramid_num_routed": [-1, 4] * (BLOCKS // 2),
        }
        sound = {
            "hidden_size": WIDTH,
            "intermediate_size": WIDTH,
            "num_hidden_layers": 1,
            "num_attention_heads": HEADS,
            "feature_size": MELS,
            "hop_length": HOP,
            "downsample_hidden_size": 4,
            "adapter_input_size": WIDTH,
            "adapter_out_dim": WIDTH,
        }
        return Dots3NoteConfig(
            vision_config=vision,
            text_config=text("dots3_note_text", **own),
            audio_config=sound,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            audio_token_id=AUDIO,
        )

    def create(self, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
        in_double()
        model = super().create(dtype, attention)
        for name, module in model.named_modules():
            if dtype == torch.float64 and name.endswith(".experts"):
                # blocks of the tower have configs of their own, which no setting reaches
                module.config._experts_implementation = "eager"
        return model

    def grid(self, part: Image | Video) -> list[int]:
        frames = part.frames if isinstance(part, Video) else 1
        return [frames, part.height // PATCH, part.width // PATCH]

    def ids(self, prompt: Prompt) -> list[int]:
        return [BOS, AUDIO_START, *[AUDIO] * SPOKEN, AUDIO_END, *super().ids(prompt)[1:]]

    def sound(self, inputs: dict[str, Tensor]) -> Tensor:
        return inputs["input_ids"] == AUDIO

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        call = super().extras(ids, prompts)
        del call["mm_token_type_ids"]
        seeds = [sum(one.start for one in row if isinstance(one, Text)) for row in prompts]
        columns = SPOKEN * SHORTER
        sounds = [scenes.pixels(Image(MELS, columns, seed))[0] for seed in seeds]
        lengths = torch.full((len(sounds),), HOP * columns)
        return {**call, "input_features": torch.stack(sounds), "chunk_sample_lengths": lengths}

    def positions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return Case.positions(self, inputs)

    def _rows(self, part: Image | Video) -> Tensor:
        frames, height, width = self.grid(part)
        return scenes.pixels(Video(frames * height * width, PATCH, PATCH, part.seed)).flatten(1)


def in_double() -> None:
    """The library routes in float32, by products whose rounding depends on the other rows."""
    from transformers.models.dots3_note import modeling_dots3_note as modeling

    def routed(router: Any, hidden: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, ...]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        rows = hidden.reshape(-1, router.hidden_dim).to(wide)
        logits = nn.functional.linear(rows, router.weight.to(wide))
        scores = logits.sigmoid()
        chosen = (scores + bias).topk(router.top_k, sorted=False).indices
        weights = scores.gather(1, chosen)
        return logits, scale * weights / (weights.sum(dim=-1, keepdim=True) + 1e-20), chosen

    def language(router: Any, hidden_states: Tensor) -> tuple[Tensor, ...]:
        scale = router.routed_scaling_factor
        return routed(router, hidden_states, router.e_score_correction_bias, scale)

    def vision(router: Any, hidden_states: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        return routed(router, hidden_states, bias, router.router_scaling_factor)

    modeling.Dots3NoteTextTopkRouter.forward = language
    modeling.Dots3NoteVisionTopKRouter.forward = vision


CASES = (Dots3Note("dots3_note", "Dots3NoteForConditionalGeneration"),)
