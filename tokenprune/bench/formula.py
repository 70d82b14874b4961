"""FLOPs by formula: what papers of the field quote, beside what the counter measures.

For every block, with n tokens of width d: 2 n per weight of its linear layers, and 4 n^2 d for
the two products of attention (FastV, arXiv 2403.06764, sec. 4.2 counts multiply-adds; here a
multiply-add is two operations). Norms, the projector, the head and selection are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from tokenprune.adapter import MllmAdapter
from tokenprune.bench.lengths import encoder_lengths, llm_lengths
from tokenprune.trace import Trace


def block_flops(block: nn.Module, tokens: float) -> float:
    """Operations of one transformer block on a sequence of `tokens`."""
    linear = [module for module in block.modules() if isinstance(module, nn.Linear)]
    if not linear:
        return 0.0
    weights = sum(module.weight.numel() for module in linear)
    return 2.0 * tokens * weights + 4.0 * tokens**2 * linear[0].in_features


def stack_flops(blocks: Sequence[nn.Module], tokens: Iterable[float]) -> float:
    """Operations of blocks, each with its own number of tokens."""
    return sum(block_flops(block, n) for block, n in zip(blocks, tokens, strict=True))


def model_flops(model: nn.Module, trace: Trace, inputs: Mapping[str, Any]) -> float:
    """Operations to the first token of one call of a multimodal LLM, all prompts together.

    Args:
        model: a model that an adapter serves.
        trace: of the call.
        inputs: of the call, with `input_ids` `[B, T]` and perhaps `attention_mask`.
    """
    from tokenprune.engine.choosing import choose_adapter, choose_encoder

    adapter = choose_adapter(model, None)
    if not isinstance(adapter, MllmAdapter):
        return 0.0
    spec = adapter.spec()
    tower = choose_encoder(spec.tower).spec()
    used = spec.used if spec.used is not None else len(tower.blocks)
    images, ids = trace.images, inputs["input_ids"]
    total = sum(
        stack_flops(tower.blocks[:used], encoder_lengths(image, used, tower.prefix))
        for image in images
    )
    each = len(images) // len(ids)
    mask = inputs.get("attention_mask")
    words = (
        (ids != spec.placeholder_id) if mask is None else mask.bool() & (ids != spec.placeholder_id)
    )
    for row, text in enumerate(words.sum(dim=1).tolist()):
        mine = images[row * each : (row + 1) * each]
        total += stack_flops(spec.layers, llm_lengths(mine, len(spec.layers), text))
    return total
