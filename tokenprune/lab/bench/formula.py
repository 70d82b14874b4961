"""FLOPs by formula: what papers of the field quote, beside what the counter measures.

For every block, with n tokens and d channels of all query heads: 2 n per weight of its linear
layers, and 4 n^2 d for the two products of attention (FastV, arXiv 2403.06764, sec. 4.2 counts
multiply-adds; here a multiply-add is two operations). Norms, the projector, the head and selection
are left out.

What runs is counted, as by the counter: n is read from what each block takes and puts out in one
call. So padding, dummies and blocks whose output nobody reads count, since they are computed too;
merges and drops inside a block count from that block on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.engine.adapters import choose_adapter, choose_encoder
from tokenprune.errors import DataError
from tokenprune.interface.adapter import EncoderAdapter, MllmAdapter
from tokenprune.interface.packed import PackedEncoderAdapter
from tokenprune.interface.specs import MllmSpec

Hook = Callable[..., None]
WHERE, REMEDY = "--flops formula", "Use --flops measured."


@dataclass
class Watched:
    """Operations of all blocks that ran so far."""

    flops: float = 0.0


@contextmanager
def watched(model: nn.Module) -> Iterator[Watched]:
    """Count the blocks of towers and LLM while the model runs.

    Args:
        model: a model that an adapter serves: a multimodal LLM, or an encoder by itself.

    Raises:
        DataError: blocks have no formula, or a tower isn't followed.
    """
    adapter, seen = choose_adapter(model), Watched()
    hooks: list[tuple[nn.Module, Hook]] = []
    if isinstance(adapter, MllmAdapter):
        spec = adapter.spec()
        encoders = _encoders(model, spec)
        for number, layer in enumerate(spec.layers):
            if number in spec.flat_layers:
                raise DataError(
                    f"{type(layer).__name__} {number} keeps no keys, and linear attention, state "
                    "spaces and convolutions have no formula here.",
                    where=WHERE,
                    remedy=REMEDY,
                )
            _refuse_other_weights(layer)
            hooks.append((layer, _of_layer(seen, layer, _width(adapter, spec, number))))
    else:
        encoders = [choose_encoder(model)]
    for encoder in encoders:
        for block in encoder.spec().blocks:
            _refuse_other_weights(block)
            hooks.append((block, _of_block(seen, encoder, block)))
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.enter_context(module.register_forward_hook(hook, with_kwargs=True))
        yield seen


def _encoders(model: nn.Module, spec: MllmSpec) -> list[EncoderAdapter]:
    """Of each tower one, also where several kinds of picture read it."""
    if spec.tower is not None:
        return [choose_encoder(spec.tower)]
    found: dict[int, EncoderAdapter] = {}
    for kind, modality in spec.modalities.items():
        tower = modality.tower
        if tower is None:
            raise DataError(
                f"the tower of {type(model).__name__} isn't followed for a {kind}, so its part has "
                "no formula.",
                where=WHERE,
                remedy=REMEDY,
            )
        if id(tower.module) not in found:
            found[id(tower.module)] = choose_encoder(tower.module, tower.encoder)
    return list(found.values())


def _of_layer(seen: Watched, layer: nn.Module, width: int) -> Hook:
    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        batch, tokens = _states(output).shape[:2]
        seen.flops += batch * (_linear_flops(layer, tokens) + _attention_flops(tokens, width))

    return hook


def _of_block(seen: Watched, encoder: EncoderAdapter, block: nn.Module) -> Hook:
    hidden = _one_token(block)
    with torch.no_grad():
        query, _, _ = encoder.heads(block, hidden)
    width = query.shape[1] * query.shape[3]

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        # what a plan restores behind a block neither came in nor took part
        states = min(args[0], _states(output), key=lambda one: one.shape[-2])
        if not isinstance(encoder, PackedEncoderAdapter):
            batch, tokens = states.shape[:2]
            seen.flops += batch * (_linear_flops(block, tokens) + _attention_flops(tokens, width))
            return
        rows = states.shape[-2]
        borders = encoder.borders(args[1:], kwargs)
        if borders is None:
            raise DataError(
                f"attention of {type(block).__name__} is parted by picture, and its calls don't "
                "say where.",
                where=WHERE,
                remedy=REMEDY,
            )
        segments = torch.as_tensor(borders).diff().tolist()
        # what a plan left of a sequence is taken to be spread over its segments as before
        share = rows / sum(segments)
        seen.flops += _linear_flops(block, rows)
        seen.flops += sum(_attention_flops(n * share, width) for n in segments)

    return hook


def _states(output: Any) -> Tensor:
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def _linears(block: nn.Module) -> list[nn.Linear]:
    return [module for module in block.modules() if isinstance(module, nn.Linear)]


def _linear_flops(block: nn.Module, tokens: float) -> float:
    return 2.0 * tokens * sum(module.weight.numel() for module in _linears(block))


def _attention_flops(tokens: float, width: int) -> float:
    """Operations of both products of attention, all heads together `width` wide."""
    return 4.0 * tokens**2 * width


def _width(adapter: MllmAdapter, spec: MllmSpec, number: int) -> int:
    """Channels of all query heads of an LLM layer."""
    layer = spec.layers[number]
    hidden = _one_token(layer)
    if adapter.no_query_key(layer) is not None:
        return hidden.shape[2]
    with torch.no_grad():
        query, _ = adapter.query_key(layer, adapter.project(layer, hidden), None)
    return query.shape[1] * query.shape[3]


def _one_token(block: nn.Module) -> Tensor:
    """Something that a block may be asked about, `[1, 1, D]`."""
    first = _linears(block)[0]
    return first.weight.new_zeros(1, 1, first.in_features)


def _refuse_other_weights(block: nn.Module) -> None:
    """Refuse a block with convolutions, or with experts, of which every token runs through a few.

    Raises:
        DataError: naming the block.
    """
    for module in block.modules():
        if any(parameter.dim() > 2 for parameter in module.parameters(recurse=False)):
            kind = type(module).__name__
            what = "convolutions" if kind.startswith("Conv") else "experts"
            raise DataError(
                f"{type(block).__name__} has {what} ({kind}), and the formula counts blocks whose "
                "tokens all run through all weights, those of linear layers.",
                where=WHERE,
                remedy=REMEDY,
            )
