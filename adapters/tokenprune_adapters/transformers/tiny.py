"""A tiny LLaVA with random weights, for the test kit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tokenprune.interface.trainable import ModelShape

PATCH, HEADS, VOCABULARY = 4, 4, 64
PADDING, END, IMAGE = 0, 2, 5
FIRST_WORD = 8


class TinyLlava:
    """LLaVA with a CLIP tower and a Llama."""

    name = "llava"
    library = "transformers"

    def build(self, shape: ModelShape) -> nn.Module:
        """The model in eval mode; the tower's last layer isn't used, as in LLaVA 1.5."""
        import transformers as hf

        frames, height, width = shape.grid
        assert (frames, width) == (1, height), "CLIP takes square pictures"
        vision = hf.CLIPVisionConfig(
            hidden_size=shape.encoder_width,
            intermediate_size=2 * shape.encoder_width,
            num_hidden_layers=shape.encoder_blocks + 1,
            num_attention_heads=HEADS,
            image_size=height * PATCH,
            patch_size=PATCH,
        )
        language = hf.LlamaConfig(
            hidden_size=shape.llm_width,
            intermediate_size=2 * shape.llm_width,
            num_hidden_layers=shape.llm_layers,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS // 2,
            vocab_size=VOCABULARY,
            bos_token_id=1,
            eos_token_id=END,
            pad_token_id=PADDING,
        )
        config = hf.LlavaConfig(
            vision_config=vision,
            text_config=language,
            image_token_index=IMAGE,
            image_seq_length=math.prod(shape.grid),
            pad_token_id=PADDING,
            eos_token_id=END,
        )
        config._attn_implementation = "sdpa"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _generic(hf.LlavaForConditionalGeneration(config)).eval()

    def inputs(self, shape: ModelShape, texts: Sequence[int]) -> dict[str, Tensor]:
        """Token ids, mask and pictures."""
        patches, side = math.prod(shape.grid), shape.grid[1] * PATCH
        longest = patches + max(texts)
        ids = torch.full((len(texts), longest), PADDING)
        pictures = []
        for row, length in enumerate(texts):
            words = [FIRST_WORD + (7 * length + place) % 50 for place in range(length)]
            prompt = torch.tensor([words[0], *[IMAGE] * patches, *words[1:]])
            ids[row, longest - len(prompt) :] = prompt
            generator = torch.Generator().manual_seed(length)
            pictures.append(torch.randn(3, side, side, generator=generator))
        return {
            "input_ids": ids,
            "attention_mask": (ids != PADDING).long(),
            "pixel_values": torch.stack(pictures),
        }


def _generic(model: nn.Module) -> nn.Module:
    """Shake all parameters: zero biases and norms of one would hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model
