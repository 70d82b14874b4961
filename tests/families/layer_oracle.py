"""Attention of LLM layers: what a model computes in float64, and the same as loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tokenprune_adapters.shared.arguments import named
from torch import Tensor, nn

from tests.families.models.common import VOCABULARY, WIDTH, built, text
from tests.families.models.llama4 import in_double

SOME = 7
"""Every so many queries are computed as loops."""


@dataclass
class Ran:
    """One layer's call.

    Attributes:
        layer: the layer.
        given: its arguments, by name.
        weights: softmax weights `[B, H, T, T]`; None where it has no attention.
    """

    layer: nn.Module
    given: dict[str, Any]
    weights: Tensor | None = None


@contextmanager
def exact_softmax() -> Iterator[None]:
    """The library's eager attention rounds weights to float32; here it doesn't."""
    plain: Callable[..., Tensor] = torch.nn.functional.softmax

    def double(states: Tensor, dim: int = -1, **rest: Any) -> Tensor:
        return plain(states, dim=dim)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "softmax", double)
        yield


def ran(model: Any, layers: Sequence[nn.Module], call: dict[str, Tensor]) -> list[Ran]:
    """Calls of all layers in one forward of an eager model."""
    found: list[Ran] = []

    def enter(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(Ran(layer, named(type(layer).forward, args, kwargs)))

    def leave(attention: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, tuple):  # that of linear attention puts out nothing else
            found[-1].weights = output[1]

    hooks = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
    for layer in layers:
        if hasattr(layer, "self_attn"):
            hooks.append(layer.self_attn.register_forward_hook(leave))
    try:
        with exact_softmax(), torch.no_grad():
            model(**call, output_attentions=True)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def text_model(kind: str, **changes: Any) -> Any:
    """A tiny eager language model in float64."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**text(kind, head_dim=WIDTH // 4, **changes))
    assert config.vocab_size == VOCABULARY
    if kind == "llama4_text":
        in_double()
    return built(AutoModelForCausalLM.from_config, config, torch.float64, "eager")


def rows(
    query: Tensor, key: Tensor, mask: Tensor | None, cap: float | None
) -> Iterator[tuple[tuple[int, int, int], Tensor]]:
    """Softmax rows of some queries as loops, by sample, head and place.

    Args:
        query: `[B, H, T, d]`.
        key: `[B, H_kv, T, d]`.
        mask: `[B or 1, 1, T, T]` 0 where a query sees a key; None for causal attention.
        cap: logits are capped to it.
    """
    batch, heads, count, _ = query.shape
    for b in range(batch):
        for h in range(heads):
            keys = key[b, h * key.shape[1] // heads]
            for q in [*range(0, count, SOME), count - 1]:
                yield (b, h, q), _row(query[b, h, q], keys, _seen(mask, b, q), cap)


def _seen(mask: Tensor | None, sample: int, query: int) -> list[int]:
    if mask is None:
        return list(range(query + 1))
    values = mask[min(sample, mask.shape[0] - 1), 0, query].tolist()
    return [place for place, value in enumerate(values) if value == 0]


def _row(query: Tensor, keys: Tensor, seen: list[int], cap: float | None) -> Tensor:
    found = torch.zeros(keys.shape[0], dtype=keys.dtype)
    if not seen:  # padding in front of everything looks everywhere alike
        return found + 1 / keys.shape[0]
    logits = [float(query @ keys[place]) / math.sqrt(len(query)) for place in seen]
    if cap is not None:
        logits = [cap * math.tanh(value / cap) for value in logits]
    powers = [math.exp(value - max(logits)) for value in logits]
    for place, power in zip(seen, powers, strict=True):
        found[place] = power / sum(powers)
    return found
