"""Ids, sizes and the parts of configs that the tiny models share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

PAD, BOS, EOS, UNKNOWN, IMAGE, VIDEO, START, END, BREAK = range(9)
FIRST_WORD, VOCABULARY = 40, 200
WIDTH, HEADS, LAYERS, BLOCKS = 32, 4, 4, 4
PATCH = 8


def library() -> tuple[int, int]:
    """(major, minor) of the installed transformers."""
    import transformers

    major, minor = transformers.__version__.split(".")[:2]
    return int(major), int(minor)


def words(length: int, start: int) -> list[int]:
    """Ids of `length` words, running on from word `start`."""
    count = VOCABULARY - FIRST_WORD
    return [FIRST_WORD + (start + step) % count for step in range(length)]


def text(kind: str, **changes: Any) -> dict[str, Any]:
    """Config of a language model of four layers, with two key-value heads for four heads."""
    return {
        "model_type": kind,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        **changes,
    }


def tower(kind: str | None = None, **changes: Any) -> dict[str, Any]:
    """Config of a vision tower of four blocks."""
    named = {"model_type": kind} if kind else {}
    return {
        **named,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": HEADS,
        "patch_size": PATCH,
        **changes,
    }


def clip(image: int) -> dict[str, Any]:
    """Config of a CLIP tower for pictures of `image` x `image`."""
    return tower("clip_vision_model", image_size=image)


def siglip(image: int, **changes: Any) -> dict[str, Any]:
    """Config of a SigLIP tower without its pooling head."""
    return tower("siglip_vision_model", image_size=image, vision_use_head=False, **changes)


def built(
    model_class: type[nn.Module],
    config: Any,
    dtype: torch.dtype,
    attention: str | dict[str, str],
) -> Any:
    """The seeded model in eval mode, its weights far from their initial values.

    Equal weights in every dtype: they are drawn in float32.
    """
    torch.manual_seed(0)
    config._attn_implementation = attention
    model: Any = generic(model_class(config)).to(dtype)
    if dtype == torch.float64 and any(
        name.endswith(".experts") for name, _ in model.named_modules()
    ):
        # the default way, a grouped product of matrices, takes float32 at most
        model.set_experts_implementation("eager")
    return model


def generic(model: nn.Module) -> nn.Module:
    """Give every parameter a generic value.

    Fresh weights hide mistakes: biases are zero, norms one, and matrices so small that attention is
    uniform and the next token hardly depends on the picture.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.05 if parameter.dim() < 2 else 0.8 / math.sqrt(WIDTH)
            parameter.add_(scale * noise)
    return model.eval()
