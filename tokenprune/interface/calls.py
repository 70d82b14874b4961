"""The calls of a multimodal LLM in the engine's own words.

An adapter reads these from a library's arguments and writes them back, so that the engine spells no
argument of a model library. Whatever a type here doesn't name is handed on as it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

Arguments = Mapping[str, Any]
"""Keyword arguments of a call."""

Given = tuple[tuple[Any, ...], Arguments]
"""Positional and keyword arguments of a call, as an adapter is handed them."""

Written = tuple[tuple[Any, ...], dict[str, Any]]
"""The same as an adapter writes them."""

Entry = Literal["generate", "model", "core"]
"""Through which of its methods a multimodal LLM was called: `generate`, the forward of the model
with its head, or the forward of the core without it."""

Mask = Tensor | Mapping[str, Tensor | None] | None
"""What queries may see: None (causal), `[B, T]` (1 or True for tokens, 0 for padding),
`[B or 1, 1 or H, T, T]` (bool or additive), or one of these for every type of layer, by name."""

Rotary = tuple[Tensor, ...] | None
"""Rotary rows of a layer, such as cosines and sines `[B or 1, T, d]`; None where it has none."""


@dataclass(frozen=True)
class ArgumentNames:
    """What a library calls the user's arguments; read in messages only.

    Attributes:
        ids: token ids of the prompt.
        pictures: the pictures.
        mask: the padding mask.
        encoded: features that were encoded before the call.
    """

    ids: str
    pictures: str
    mask: str
    encoded: str


@dataclass(frozen=True)
class Refused:
    """An argument that a shortened sequence can't serve.

    Attributes:
        reason: why, as a sentence.
        remedy: what works instead, as a sentence.
    """

    reason: str
    remedy: str


@dataclass(frozen=True)
class PromptCall:
    """A call of `generate`, of the model or of its core.

    Attributes:
        ids: token ids `[B, L]`, without those that are in the cache; None if the call gives
            embeddings.
        mask: padding mask `[B, L]`, or whatever form of mask the caller made.
        positions: position ids as in `LlmCall`, if the caller gives any.
        labels: labels of the tokens `[B, L]`, -100 for none.
        pictured: whether pictures are given.
        kinds: of which kinds, see `MllmSpec.modalities`.
        pixels: the pictures by the names of their arguments; None where there are none.
        encoded: whether features are given that were encoded before.
        cache: the KV cache, or None.
        cache_name: what the caller called the cache; the library's name for it if there is none.
        preallocated: whether that cache has its full length from the start.
        packed: whether a row holds several samples, whose tokens are not to see one another.
        arguments: every argument by name. Of `generate`, also what a configuration says where the
            call is silent.
    """

    ids: Tensor | None = None
    mask: Any = None
    positions: Tensor | None = None
    labels: Tensor | None = None
    pictured: bool = False
    kinds: frozenset[str] = frozenset()
    pixels: Mapping[str, Any] = field(default_factory=dict)
    encoded: bool = False
    cache: Any = None
    cache_name: str = "cache"
    preallocated: bool = False
    packed: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def continues(self, first: PromptCall) -> bool:
        """Whether this is the prompt of `first`, or begins with it, about the same pictures.

        A step of `generate` may leave out pictures that were given before.
        """
        ids, before = self.ids, first.ids
        if ids is None or before is None:
            return True
        if ids is not before:  # else reading them would have the GPU waited for
            begin = ids[:, : before.shape[1]]
            if begin.shape != before.shape or not torch.equal(begin, before.to(begin.device)):
                return False
        given = ((name, value) for name, value in self.pixels.items() if value is not None)
        return all(_same(value, first.pixels.get(name)) for name, value in given)


def _same(value: Any, before: Any) -> bool:
    """Whether two pictures' pixels are the same; usually they are one object."""
    if value is before:
        return True
    if not isinstance(value, Tensor) or not isinstance(before, Tensor):
        return False
    return value.shape == before.shape and torch.equal(value, before.to(value))


@dataclass(frozen=True)
class LlmCall:
    """A call of the LLM without head.

    Attributes:
        embeds: input embeddings `[B, T, D]`; None if the LLM was called with token ids.
        mask: see `Mask`.
        positions: position ids `[..., B or 1, T]`: `[B, T]`, or `[3, B, T]` and `[4, B, T]` where
            time, height and width are counted apart; None if the LLM counts by itself.
        cache: the KV cache, or None.
        cache_name: what the caller called the cache.
        per_token: further arguments that have an entry for each token, by name. On which axis the
            tokens stand is said by `MllmSpec.per_token`; the batch is the axis before it.
    """

    embeds: Tensor | None
    mask: Mask = None
    positions: Tensor | None = None
    cache: Any = None
    cache_name: str = "cache"
    per_token: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerCall:
    """A call of one layer of the LLM.

    Attributes:
        hidden: hidden states `[B, T, D]`, or `[B, T, A, D]` of LLMs whose layers hand on A streams
            of every token, which strategies see side by side, `[B, T, A D]`.
        mask: None, `[B, T]` or `[B or 1, 1 or H, Q, T]`; see `Mask`.
        positions: position ids as in `LlmCall`, or None.
        rotary: see `Rotary`.
        per_token: as in `LlmCall`.
    """

    hidden: Tensor
    mask: Tensor | None = None
    positions: Tensor | None = None
    rotary: Rotary = None
    per_token: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class LlmOutputs:
    """What an LLM without head puts out.

    Attributes:
        last: states behind the last layer and the last norm `[B, T, D]`.
        states: states in front of every layer and the last ones, if they were asked for.
    """

    last: Tensor
    states: tuple[Tensor | None, ...] | None = None
