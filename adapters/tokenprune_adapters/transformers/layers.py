"""Query and key of the decoder layers of transformers, whatever family they belong to.

What sets the classes apart is data in `layer_names`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.errors import UnsupportedModelError
from tokenprune.errors.words import indefinite
from tokenprune.interface.adapter import class_names
from tokenprune.interface.calls import LayerCall, Mask, Rotary
from tokenprune_adapters.shared.arguments import required
from tokenprune_adapters.shared.rotary import rotated, rotated_complex, rotated_pairs
from tokenprune_adapters.shared.scaling import scaled
from tokenprune_adapters.transformers import indexed_layers, latent_layers
from tokenprune_adapters.transformers import layer_names as names
from tokenprune_adapters.transformers.llm_names import POSITIONS
from tokenprune_adapters.transformers.streams import mixed, predicted

Kinds = Mapping[str, names.LayerKind]
"""Kinds of layers by the full name of their class."""


def layers_of(language: nn.Module) -> list[nn.Module]:
    """The layers of an LLM without its head.

    Raises:
        UnsupportedModelError: it has no list of them, as those of GPT-2's time.
    """
    found = getattr(language, "layers", None)
    if not isinstance(found, nn.ModuleList):
        raise UnsupportedModelError(
            f"an LLM of class {type(language).__name__} keeps no list of 'layers'.",
            where="language_model",
            remedy="Supported are LLMs that are built as Llama is.",
        )
    return list(found)


def check_layers(layers: Iterable[nn.Module], where: str, kinds: Kinds = names.KINDS) -> None:
    """Refuse layers of a class that isn't known.

    Args:
        layers: the LLM's layers.
        where: what the LLM is called, for the message.
        kinds: what is known of layers.

    Raises:
        UnsupportedModelError: naming the class.
    """
    for layer in layers:
        if _found(layer, kinds) is None:
            known = ", ".join(name.rpartition(".")[2] for name in kinds)
            raise UnsupportedModelError(
                f"LLM layers of class {type(layer).__name__} aren't supported.",
                where=where,
                remedy=f"Supported: {known}.",
            )


def check_positions(layers: Iterable[nn.Module], where: str) -> None:
    """Refuse layers whose attention computes with position ids, beside the rotary rows.

    Ids of a shortened sequence have gaps, which kernels for packed sequences take for borders. So
    the engine leaves them away, and layers that need them, such as Ministral 3's, which scale
    queries by their position, can't run.

    Args:
        layers: the LLM's layers.
        where: what the LLM is called, for the message.

    Raises:
        UnsupportedModelError: naming the class.
    """
    for layer in layers:
        attention = getattr(layer, names.ATTENTION, None)
        if attention is not None and required(type(attention).forward, POSITIONS):
            raise UnsupportedModelError(
                f"LLM layers of class {type(layer).__name__} compute with position ids beside "
                "their rotary rows.",
                where=where,
                remedy="Use a model whose layers take rotary rows alone.",
            )


def no_query_key(layer: nn.Module, kinds: Kinds = names.KINDS) -> str | None:
    """Why query and key of a layer can't be had, as the end of a sentence; None if they can."""
    kind = _found(layer, kinds)
    if kind is None:
        return f"is {indefinite(type(layer).__name__)}, whose attention isn't known"
    attention = getattr(layer, names.ATTENTION, None)
    if attention is None or (kind.latent and not latent_layers.known(attention)):
        mixer = "is a convolution" if hasattr(layer, names.CONVOLUTION) else "has linear attention"
        return f"{mixer}, without query and key"
    if getattr(attention, names.SHARED, False):
        return "shares the keys of an earlier layer, and has none of its own"
    if kind.placed:
        return "scales queries by their places"
    if kind.indexed is None and getattr(attention, names.INDEXER, None) is not None:
        return "chooses by itself which blocks of keys each query sees"
    if kind.indexed is not None and getattr(attention, names.BORROWS, False):
        return "sees the keys that an earlier layer chose"
    return None


def no_cached_heads(layer: nn.Module, kinds: Kinds = names.KINDS) -> str | None:
    """Why a cache doesn't hold a layer's keys as `query_key` gives them, or None.

    Args:
        layer: the decoder layer, which has query and key.
        kinds: what is known of layers.
    """
    kind = _kind(layer, kinds)
    if kind.latent:
        return "caches narrow rows that its keys are made of"
    if kind.indexed is not None and getattr(getattr(layer, names.ATTENTION), names.INDEXER, None):
        return "chooses by itself which keys each query sees"
    return None


def check_types(language: nn.Module, where: str) -> None:
    """Refuse an LLM with layers of a type whose masks the engine can't make.

    Args:
        language: the LLM without head.
        where: what it is called, for the message.

    Raises:
        UnsupportedModelError: naming the types.
    """
    config = language.config
    types = set(getattr(config, names.LAYER_TYPES, None) or ())
    if types - names.MASKED:
        raise UnsupportedModelError(
            f"the LLM {type(language).__name__} has layers of several types "
            f"({', '.join(sorted(types))}).",
            where=where,
            remedy=f"LLMs with layers of {' and '.join(sorted(names.MASKED))} are served.",
        )
    if getattr(config, names.BOTH_WAYS, None):
        raise UnsupportedModelError(
            f"{type(language).__name__} sees both ways, and generates nothing.",
            where=f"{where}.config.{names.BOTH_WAYS}",
            remedy="LLMs that see one way are served.",
        )


def first_of(owner: nn.Module, known: Sequence[str]) -> nn.Module:
    """The first part of a module that is there under one of the names that releases have for it.

    Args:
        owner: the module.
        known: names of attributes, of which it has one.
    """
    found: nn.Module = next(getattr(owner, name) for name in known if hasattr(owner, name))
    return found


def projections(layer: nn.Module, kinds: Kinds = names.KINDS) -> Mapping[str, nn.Module]:
    """The query and key projections of a layer."""
    attention = getattr(layer, names.ATTENTION)
    if _latent(layer, kinds):
        return latent_layers.projections(attention)
    return {name: getattr(attention, module) for name, module in names.PROJECTIONS.items()}


def project(layer: nn.Module, hidden: Tensor, kinds: Kinds = names.KINDS) -> Mapping[str, Tensor]:
    """What the query and key projections put out for a layer's input `[B, T, D]`."""
    normed = _normed(layer, hidden, kinds)
    if _latent(layer, kinds):
        return latent_layers.project(getattr(layer, names.ATTENTION), normed)
    return {name: module(normed) for name, module in projections(layer, kinds).items()}


def values(layer: nn.Module, hidden: Tensor, kinds: Kinds = names.KINDS) -> Tensor:
    """Values `[B, H_kv, T, d]` of a layer for its input `[B, T, D]`.

    Args:
        layer: the decoder layer.
        hidden: its input, in front of its first norm.
        kinds: what is known of layers.
    """
    attention: Any = getattr(layer, names.ATTENTION)
    if _latent(layer, kinds):
        return latent_layers.values(attention, _normed(layer, hidden, kinds))
    # some layers take the projected keys for values, without a projection of their own
    module = getattr(attention, names.VALUE) or getattr(attention, names.PROJECTIONS["key"])
    states = module(_normed(layer, hidden, kinds))
    states = states.view(*states.shape[:-1], -1, int(getattr(attention, names.HEAD_WIDTH)))
    norm = getattr(attention, names.VALUE_NORM, None)
    heads: Tensor = states if norm is None else norm(states)
    return heads.transpose(1, 2)


def query_key(
    layer: nn.Module,
    projected: Mapping[str, Tensor],
    rotary: Rotary,
    kinds: Kinds = names.KINDS,
) -> tuple[Tensor, Tensor]:
    """Query `[B, H, T, d]` and key `[B, H_kv, T, d]`, scaled so that 1/sqrt(d) is implied.

    Args:
        layer: the decoder layer.
        projected: `[B, T, ...]` outputs of its projections, by name.
        rotary: cosines and sines `[B or 1, T, r]` with r <= d to rotate by; None for no rotation.
        kinds: what is known of layers.
    """
    attention: Any = getattr(layer, names.ATTENTION)
    kind = _kind(layer, kinds)
    if kind.latent:
        query, key = latent_layers.query_key(attention, projected, rotary)
        return scaled(query, float(getattr(attention, names.SCALING))), key
    width = int(getattr(attention, names.HEAD_WIDTH))
    query, key = (_heads(layer, kind, name, projected[name], width) for name in names.PROJECTIONS)
    query, key = (_rotated(attention, kind, states, rotary) for states in (query, key))
    if kind.behind is not None and hasattr(attention, kind.behind[0]):
        of_query, of_key = (getattr(attention, name) for name in kind.behind)
        query, key = of_query(query), of_key(key)
    factor = 1.0 if kind.factor is None else float(getattr(attention, kind.factor))
    return scaled(query, factor * float(getattr(attention, names.SCALING))), key


def ones(layer: nn.Module, hidden: Tensor, rotary: Rotary, kinds: Kinds = names.KINDS) -> Tensor:
    """Ones `[B, 1, T, d]`, rotated as a layer's queries and keys, neither normed nor scaled."""
    attention: Any = getattr(layer, names.ATTENTION)
    kind = _kind(layer, kinds)
    width = int(getattr(attention, latent_layers.WIDTH if kind.latent else names.HEAD_WIDTH))
    states = hidden.new_ones(hidden.shape[0], 1, hidden.shape[1], width)
    return _rotated(attention, kind, states, rotary)


def softcap(layer: nn.Module, kinds: Kinds = names.KINDS) -> float | None:
    """The c of logits that a layer caps to c tanh(logit / c); None where it doesn't."""
    capped = _kind(layer, kinds).capped
    value = getattr(getattr(layer, names.ATTENTION), names.SOFTCAP) if capped else None
    return None if value is None else float(value)


def seen(layer: nn.Module, call: LayerCall, kinds: Kinds = names.KINDS) -> Mask:
    """What queries of a prompt see in a layer: of what its mask shows them, what an indexer chose.

    Args:
        layer: the decoder layer.
        call: what it is called with.
        kinds: what is known of layers.
    """
    kind, attention = _found(layer, kinds), getattr(layer, names.ATTENTION, None)
    if kind is None or kind.indexed is None or getattr(attention, names.INDEXER) is None:
        return call.mask
    normed = _normed(layer, call.hidden, kinds)
    return indexed_layers.CHOOSING[kind.indexed](attention, normed, call)


def rotary(
    language: nn.Module,
    layer: nn.Module,
    hidden: Tensor,
    positions: Tensor,
    kinds: Kinds = names.KINDS,
) -> Rotary:
    """Cosines and sines `[B, T, r]` of a layer for position ids; None where it doesn't rotate.

    Args:
        language: the LLM without head, which makes them for all layers.
        layer: the decoder layer.
        hidden: `[B, T, D]` its input, whose type and device the rows get.
        positions: `[B, T]`.
        kinds: what is known of layers.
    """
    made, config = {POSITIONS: positions}, language.config
    bases = getattr(config, names.BASES, None)
    if bases is not None and not bases[_number(layer)]:
        return None
    if _kind(layer, kinds).typed:
        made[names.LAYER_TYPE] = getattr(config, names.LAYER_TYPES)[_number(layer)]
    cos, sin = getattr(language, names.ROTARY_EMBEDDING)(hidden, **made)
    return cos, sin


def _number(layer: nn.Module) -> int:
    return int(getattr(getattr(layer, names.ATTENTION), names.NUMBER))


def _found(layer: nn.Module, kinds: Kinds) -> names.LayerKind | None:
    known = (kinds[name] for name in class_names(layer) if name in kinds)
    return next(known, None)


def _kind(layer: nn.Module, kinds: Kinds) -> names.LayerKind:
    kind = _found(layer, kinds)
    assert kind is not None, f"{type(layer).__name__}: check_layers and no_query_key come first"
    return kind


def _latent(layer: nn.Module, kinds: Kinds) -> bool:
    kind = _found(layer, kinds)
    return kind is not None and kind.latent


def _normed(layer: nn.Module, hidden: Tensor, kinds: Kinds) -> Tensor:
    """A layer's input as its attention gets it."""
    kind = _found(layer, kinds)
    if kind is not None and kind.streams is not None:
        part, output = getattr(layer, kind.streams), kind.output
        hidden = predicted(part, hidden) if output is None else mixed(part, hidden, output)
    bare = kind is not None and kind.bare
    if isinstance(bare, str):
        bare = getattr(layer, bare)
    if bare:
        return hidden
    normed: Tensor = first_of(layer, names.NORMS)(hidden)
    return normed


def _heads(
    layer: nn.Module, kind: names.LayerKind, name: str, states: Tensor, width: int
) -> Tensor:
    """Heads `[B, H, T, d]` of what a projection put out, normed, but not rotated."""
    attention: Any = getattr(layer, names.ATTENTION)
    norm: Any = None
    if kind.normed and any(hasattr(attention, norm) for norm in names.HEAD_NORMS[name]):
        norm = first_of(attention, names.HEAD_NORMS[name])
    gated = kind.gated and name == "query"
    weight = getattr(norm, "weight", None)
    if weight is not None and weight.shape[0] > width:  # of all heads together
        states, norm = norm(states), None
    states = states.view(*states.shape[:-1], -1, 2 * width if gated else width)
    if gated:  # of each head, the gate stands behind the query
        states = states[..., :width]
    return (states if norm is None else norm(states)).transpose(1, 2)


def _rotates(attention: Any, kind: names.LayerKind) -> bool:
    if kind.rotates is None or (kind.mixed is not None and getattr(attention, kind.mixed) is None):
        return True
    return bool(getattr(attention, kind.rotates))


def _rotated(attention: Any, kind: names.LayerKind, states: Tensor, rotary: Rotary) -> Tensor:
    """Only as many channels as the rotary rows have; the others stay as they are."""
    if kind.latent:
        return latent_layers.turned(attention, states, rotary)
    if rotary is None or not _rotates(attention, kind):
        return states
    cos, sin = (part.unsqueeze(1) for part in rotary)
    if kind.complex:
        return rotated_complex(states, torch.complex(cos, sin))
    width, turn = cos.shape[-1], rotated_pairs if kind.paired else rotated
    part = states[..., :width]
    turned = turn(part.float() if kind.wide else part, cos, sin).to(states.dtype)
    return torch.cat((turned, states[..., width:]), dim=-1) if width < states.shape[-1] else turned
