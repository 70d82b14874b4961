"""Llama 4: tiles with separators, pixels shuffled inside the tower, experts, chunks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.families.case import Case
from tests.families.models.common import BREAK, END, HEADS, IMAGE, PATCH, START, WIDTH, text
from tests.families.models.shuffled import MERGE, SIDE, SIZES, UNITS, WHOLE, parts, stack
from tests.families.scenes import Image, Prompt

BETWEEN, BELOW = BREAK, WHOLE + 1
"""Separators of tiles in a row, and of rows of tiles."""
MADE = 48
"""Channels of what the tower makes."""


class Llama4(Case):
    """The overview behind the other tiles; features are narrower or wider than the LLM."""

    def config(self) -> Any:
        from transformers import Llama4Config

        rope = {"rope_type": "default", "rope_theta": 1e4}
        language = text(
            "llama4_text",
            head_dim=WIDTH // HEADS,
            intermediate_size_mlp=2 * WIDTH,
            interleave_moe_layer_step=2,
            num_local_experts=4,
            rope_parameters=rope,
        )
        vision = {
            "hidden_size": WIDTH,
            "num_hidden_layers": 4,
            "num_attention_heads": HEADS,
            "intermediate_size": WIDTH * MERGE**2,
            "image_size": SIDE,
            "patch_size": PATCH,
            "pixel_shuffle_ratio": 1 / MERGE,
            "projector_input_dim": MADE,
            "projector_output_dim": MADE,
            "vision_output_dim": MADE,
            "rope_parameters": rope,
        }
        return Llama4Config(
            vision_config=vision,
            text_config=language,
            image_token_index=IMAGE,
            boi_token_index=START,
            eoi_token_index=END,
        )

    def missing(self, scene: str = "one") -> str | None:
        import transformers

        if transformers.__version__ == "5.24.0":
            return "transformers 5.24.0: its forward reads what its LLM doesn't put out"
        return super().missing(scene)

    def create(self, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
        """`.to` of another type takes the imaginary parts of the tower's rotary rows away."""
        in_double()
        model = super().create(dtype, attention)
        rotary = model.vision_model.rotary_embedding
        rotary.freqs_ci = rotary._compute_freqs_ci(rotary.config)
        return model

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        high, wide = image.height // SIDE, image.width // SIDE
        tile, row = [IMAGE] * UNITS, list[int]()
        if high * wide > 1:
            for _ in range(high):
                row += [*[*tile, BETWEEN] * (wide - 1), *tile, BELOW]
        return [START, *row, WHOLE, *tile, END]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        shown = [stack(part) for prompt in prompts for part in parts(prompt)]
        return {"pixel_values": torch.cat(shown)} if shown else {}


def in_double() -> None:
    """The library rounds to float32, by operations that round a row by where it stands."""
    from transformers.models.llama4 import modeling_llama4 as library

    def wide(states: Tensor) -> Tensor:
        return states.to(torch.promote_types(states.dtype, torch.float32))

    def turned(states: Tensor, rows: Tensor) -> Tensor:
        pairs = torch.view_as_complex(wide(states).unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * rows).flatten(3).to(states.dtype)

    def language(xq: Tensor, xk: Tensor, freqs_cis: Tensor) -> tuple[Tensor, Tensor]:
        rows = freqs_cis[:, :, None, :]
        return turned(xq, rows), turned(xk, rows)

    def vision(query: Tensor, key: Tensor, freqs_ci: Tensor) -> tuple[Tensor, Tensor]:
        rows = freqs_ci.view(1, query.shape[1], 1, -1)
        return turned(query, rows), turned(key, rows)

    def routed(router: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        logits = nn.functional.linear(hidden_states, router.weight)
        best, chosen = logits.topk(router.top_k, dim=1)
        scores = torch.full_like(logits, float("-inf")).scatter_(1, chosen, best)
        return torch.sigmoid(wide(scores)).to(scores.dtype), logits

    library.apply_rotary_emb, library.vision_apply_rotary_emb = language, vision
    library.Llama4Router.forward = routed


CASES = (Llama4("llama4", "Llama4ForConditionalGeneration", SIZES),)
