"""FLOPs by formula: what papers of the field quote, beside what the counter measures.

For every block, with n tokens and d channels of all query heads: 2 n per weight of its linear
layers, and 4 n^2 d for the two products of attention (FastV, arXiv 2403.06764, sec. 4.2 counts
multiply-adds; here a multiply-add is two operations). Norms, the projector, the head and selection
are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tokenprune.errors import DataError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.specs import EncoderSpec, MllmSpec
from tokenprune.interface.trace import ImageTrace, Trace


def block_flops(block: nn.Module, tokens: float, width: int | None = None) -> float:
    """Operations of one transformer block on a sequence of `tokens`.

    Args:
        block: the block.
        tokens: of the sequence.
        width: channels of all query heads; None for as many as the block's input has.
    """
    found = linears(block)
    if not found:
        return 0.0
    heads = found[0].in_features if width is None else width
    return linear_flops(block, tokens) + attention_flops(tokens, heads)


def linears(block: nn.Module) -> list[nn.Linear]:
    """The linear layers of a block, in order."""
    return [module for module in block.modules() if isinstance(module, nn.Linear)]


def linear_flops(block: nn.Module, tokens: float) -> float:
    """Operations of a block's linear layers on `tokens` tokens."""
    return 2.0 * tokens * sum(module.weight.numel() for module in linears(block))


def attention_flops(tokens: float, width: int) -> float:
    """Operations of both products of attention, all heads together `width` wide."""
    return 4.0 * tokens**2 * width


def stack_flops(blocks: Sequence[nn.Module], tokens: Iterable[float]) -> float:
    """Operations of blocks, each with its own number of tokens."""
    return sum(block_flops(block, n) for block, n in zip(blocks, tokens, strict=True))


def encoder_flops(model: nn.Module, trace: Trace) -> float:
    """Operations of one call of a plain encoder, all pictures together.

    Args:
        model: an encoder that an adapter serves.
        trace: of the call.
    """
    from tokenprune.engine.adapters import choose_encoder

    spec = choose_encoder(model).spec()
    return _tower(spec, spec.used, trace.images)


def model_flops(model: nn.Module, trace: Trace, inputs: Mapping[str, Any]) -> float:
    """Operations to the first token of one call of a multimodal LLM, all prompts together.

    Args:
        model: a model that an adapter serves, with one tower; see `watching` for others.
        trace: of the call.
        inputs: of the call, with `input_ids` `[B, T]` and perhaps `attention_mask`.

    Raises:
        DataError: the prompts differ in how many visual tokens they hold, or a layer has experts.
    """
    from tokenprune.engine.adapters import choose_adapter, choose_encoder

    adapter = choose_adapter(model)
    if not isinstance(adapter, MllmAdapter):
        return 0.0
    spec = adapter.spec()
    assert spec.tower is not None  # others are watched
    tower = choose_encoder(spec.tower).spec()
    used = spec.used if spec.used is not None else len(tower.blocks)
    images, ids = trace.images, inputs["input_ids"]
    total = _tower(tower, used, images)
    for layer in spec.layers:
        refuse_experts(layer)
    widths = [attention_width(adapter, spec, number) for number in range(len(spec.layers))]
    visual = ids == spec.placeholder_id
    if visual.sum(dim=1).unique().numel() > 1:
        raise DataError(
            "the prompts of a batch hold different numbers of visual tokens.",
            where="--flops formula",
            remedy="Use --batch-size 1, or --flops measured.",
        )
    each = len(images) // len(ids)
    mask = inputs.get("attention_mask")
    words = ~visual if mask is None else mask.bool() & ~visual
    for row, text in enumerate(words.sum(dim=1).tolist()):
        mine = images[row * each : (row + 1) * each]
        lengths = llm_lengths(mine, len(spec.layers), text)
        total += sum(map(block_flops, spec.layers, lengths, widths))
    return total


def refuse_experts(block: nn.Module) -> None:
    """Refuse a block with stacked experts, of which every token runs through a few only.

    Raises:
        DataError: naming the block.
    """
    for module in block.modules():
        stacked = any(parameter.dim() == 3 for parameter in module.parameters(recurse=False))
        if stacked and not isinstance(module, nn.Conv1d):
            raise DataError(
                f"{type(block).__name__} has experts ({type(module).__name__}), and the formula "
                "counts blocks whose tokens all run through all weights.",
                where="--flops formula",
                remedy="Use --flops measured.",
            )


def attention_width(adapter: MllmAdapter, spec: MllmSpec, number: int) -> int:
    """Channels of all query heads of an LLM layer; 0 for linear attention, which has no square."""
    layer = spec.layers[number]
    if number in spec.flat_layers:
        return 0
    first = linears(layer)[0]
    if adapter.no_query_key(layer) is not None:
        return first.in_features
    hidden = first.weight.new_zeros(1, 1, first.in_features)
    with torch.no_grad():
        query, _ = adapter.query_key(layer, adapter.project(layer, hidden), None)
    return query.shape[1] * query.shape[3]


def _tower(tower: EncoderSpec, used: int, images: Iterable[ImageTrace]) -> float:
    """Every frame is a sequence of its own."""
    return sum(
        image.grid[0] * stack_flops(tower.blocks[:used], encoder_lengths(image, used, tower.prefix))
        for image in images
    )


def encoder_lengths(image: ImageTrace, used: int, prefix: int) -> list[float]:
    """Tokens of a frame in each used block, prefix included; merges count from their block.

    A picture is one frame.
    """
    frames = image.grid[0]
    present, lengths = float(image.patches), []
    for block in range(used):
        for step in image.steps:
            if step.site.stage == "encoder" and step.site.layer == block and step.kept <= present:
                present = float(step.kept)
        lengths.append(prefix + present / frames)
    return lengths


def llm_lengths(images: Sequence[ImageTrace], layers: int, text: int) -> list[float]:
    """Tokens in each layer of the LLM for a prompt with these images and so many text tokens."""
    lengths = []
    for layer in range(layers):
        visual = 0
        for image in images:
            seen = [
                step.kept
                for step in image.steps
                if step.site.stage != "decoder" or step.site.layer <= layer
            ]
            visual += seen[-1] if seen else image.patches
        lengths.append(float(text + visual))
    return lengths
