"""FLOPs by formula of a family with several pictures, tiles or clips, watched block by block.

How long the sequence of each block is follows from sizes, tiles, frames and what a plan removed. So
it is read from what each block puts out in one call, padding and dummies included, since they are
computed too; merges and drops inside a block count from that block on.
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
from tokenprune.interface.specs import MllmSpec, Tower
from tokenprune.lab.bench.formula import (
    attention_flops,
    attention_width,
    linear_flops,
    linears,
    refuse_experts,
)


@dataclass
class Watched:
    """Operations of all blocks that ran so far."""

    flops: float = 0.0


@contextmanager
def watched(model: nn.Module) -> Iterator[Watched | None]:
    """Count the blocks of towers and LLM while the model runs; None if its traces tell all.

    Args:
        model: a model that an adapter serves.

    Raises:
        DataError: blocks have no formula, or a tower isn't followed.
    """
    adapter = choose_adapter(model)
    if not isinstance(adapter, MllmAdapter) or not adapter.spec().modalities:
        yield None
        return
    spec, seen = adapter.spec(), Watched()
    towers = _towers(model, spec)
    for layer in spec.layers:
        refuse_experts(layer)
    hooks = [
        (layer, _of_layer(seen, layer, attention_width(adapter, spec, number)))
        for number, layer in enumerate(spec.layers)
    ]
    for tower in towers:
        encoder = choose_encoder(tower.module, tower.encoder)
        hooks += [(b, _of_block(seen, encoder, b)) for b in encoder.spec().blocks[: tower.used]]
    with ExitStack() as stack:
        for module, hook in hooks:
            refuse_experts(module)
            stack.enter_context(module.register_forward_hook(hook, with_kwargs=True))
        yield seen


def _towers(model: nn.Module, spec: MllmSpec) -> list[Tower]:
    """Each tower once, with the most blocks that any kind of picture reads."""
    found: dict[int, Tower] = {}
    for kind, modality in spec.modalities.items():
        tower = modality.tower
        if tower is None:
            raise DataError(
                f"the tower of {type(model).__name__} isn't followed for a {kind}, so its part has "
                "no formula.",
                where="--flops formula",
                remedy="Use --flops measured.",
            )
        known = found.get(id(tower.module))
        if known is None or known.used < tower.used:
            found[id(tower.module)] = tower
    return list(found.values())


def _of_layer(seen: Watched, layer: nn.Module, width: int) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        batch, tokens = _states(output).shape[:2]
        cost = linear_flops(layer, tokens) + attention_flops(tokens, width)
        seen.flops += batch * cost

    return hook


def _of_block(seen: Watched, encoder: EncoderAdapter, block: nn.Module) -> Callable[..., None]:
    width = linears(block)[0].in_features

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        states = _states(output)
        if not isinstance(encoder, PackedEncoderAdapter):
            batch, tokens = states.shape[:2]
            seen.flops += batch * (linear_flops(block, tokens) + attention_flops(tokens, width))
            return
        rows = states.shape[-2]
        borders = encoder.borders(args[1:], kwargs)
        if borders is None:
            raise DataError(
                f"attention of {type(block).__name__} is parted by picture, and its calls don't "
                "say where.",
                where="--flops formula",
                remedy="Use --flops measured.",
            )
        segments = torch.as_tensor(borders).diff().tolist()
        # what a plan left of a sequence is taken to be spread over its segments as before
        share = rows / sum(segments)
        seen.flops += linear_flops(block, rows)
        seen.flops += sum(attention_flops(n * share, width) for n in segments)

    return hook


def _states(output: Any) -> Tensor:
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states
