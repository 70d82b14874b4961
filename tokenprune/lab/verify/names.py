"""The names of a model library's arguments that verifying needs, each in this one place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PROMPT = "input_ids"
PADDING = "attention_mask"
POSITIONS = "position_ids"


def logits_of(outputs: Any) -> Tensor:
    """Logits of a forward, `[B, T, V]` or `[B, C]`; a tensor is what was wanted by itself."""
    logits: Tensor = outputs if isinstance(outputs, Tensor) else outputs.logits
    return logits


def greedy(model: Any, inputs: dict[str, Tensor], new_tokens: int) -> tuple[Tensor, list[Tensor]]:
    """Greedy generation of exactly `new_tokens` tokens.

    Args:
        model: with a `generate`.
        inputs: its keyword arguments.
        new_tokens: how many.

    Returns:
        Prompt and new tokens `[B, T + new_tokens]`, and the logits `[B, V]` of every step.
    """
    found = model.generate(
        **inputs,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return found.sequences, list(found.logits)


def counted(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs with position ids that skip padding, as `generate` counts them."""
    mask = inputs.get(PADDING)
    if mask is None:
        return inputs
    return {**inputs, POSITIONS: (mask.cumsum(dim=-1) - 1).clamp(min=0)}


def padded(inputs: dict[str, Tensor], columns: int) -> dict[str, Tensor]:
    """The inputs of one prompt with padding in front of everything that has a value a token.

    Args:
        inputs: of one prompt without padding.
        columns: tokens of padding.
    """
    shape = inputs[PROMPT].shape
    found = {**inputs, PADDING: inputs.get(PADDING, torch.ones_like(inputs[PROMPT]))}
    for name, value in found.items():
        if value.shape[:2] == shape and not value.is_floating_point():
            found[name] = torch.cat((value.new_zeros(shape[0], columns), value), dim=1)
    return found
