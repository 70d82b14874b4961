"""Query, key and value of the decoder layers of transformers, whatever family they belong to.

What sets the classes apart is data in `layer_names`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenprune.errors import UnsupportedModelError
from tokenprune.errors.words import indefinite
from tokenprune.interface.adapter import class_names
from tokenprune.interface.calls import LayerCall, Mask, Rotary
from tokenprune_adapters.shared.rotary import rotated, rotated_complex, rotated_pairs
from tokenprune_adapters.shared.scaling import scaled
from tokenprune_adapters.transformers import indexed_layers, latent_layers
from tokenprune_adapters.transformers import layer_names as names
from tokenprune_adapters.transformers.layers import first_of
from tokenprune_adapters.transformers.llm_names import POSITIONS
from tokenprune_adapters.transformers.streams import mixed, predicted


class LayerReader:
    """Reads the attention of decoder layers, by what is known of their classes.

    Class attributes:
        layer_kinds: layer classes that `layer_names` doesn't know, by full name.
    """

    layer_kinds: ClassVar[Mapping[str, names.LayerKind]] = {}

    @cached_property
    def _kinds(self) -> Mapping[str, names.LayerKind]:
        return {**names.KINDS, **self.layer_kinds}

    def check_layers(self, layers: Iterable[nn.Module], where: str) -> None:
        """Refuse layers of a class that isn't known.

        Args:
            layers: the LLM's layers.
            where: what the LLM is called, for the message.

        Raises:
            UnsupportedModelError: naming the class.
        """
        for layer in layers:
            if self._found(layer) is None:
                known = ", ".join(name.rpartition(".")[2] for name in self._kinds)
                raise UnsupportedModelError(
                    f"LLM layers of class {type(layer).__name__} aren't supported.",
                    where=where,
                    remedy=f"Supported: {known}.",
                )

    def no_query_key(self, layer: nn.Module) -> str | None:
        """Why query and key of a layer can't be had, as the end of a sentence; None if they can."""
        kind = self._found(layer)
        if kind is None:
            return f"is {indefinite(type(layer).__name__)}, whose attention isn't known"
        attention = getattr(layer, names.ATTENTION, None)
        if attention is None or (kind.latent and not latent_layers.known(attention)):
            convolution = hasattr(layer, names.CONVOLUTION)
            mixer = "is a convolution" if convolution else "has linear attention"
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

    def no_cached_heads(self, layer: nn.Module) -> str | None:
        """Why a cache doesn't hold a layer's keys as `query_key` gives them; None if it does.

        Args:
            layer: the decoder layer, which has query and key, as in all methods below.
        """
        kind = self._kind(layer)
        if kind.latent:
            return "caches narrow rows that its keys are made of"
        if kind.indexed is not None and getattr(_attention(layer), names.INDEXER, None):
            return "chooses by itself which keys each query sees"
        return None

    def projections(self, layer: nn.Module) -> Mapping[str, nn.Module]:
        """The query and key projections."""
        attention = _attention(layer)
        if self._kind(layer).latent:
            return latent_layers.projections(attention)
        return {name: getattr(attention, module) for name, module in names.PROJECTIONS.items()}

    def project(self, layer: nn.Module, hidden: Tensor) -> Mapping[str, Tensor]:
        """Outputs of the query and key projections for a layer's input `[B, T, D]`."""
        kind = self._kind(layer)
        normed = _normed(layer, kind, hidden)
        if kind.latent:
            return latent_layers.project(_attention(layer), normed)
        return {name: module(normed) for name, module in self.projections(layer).items()}

    def values(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """Values `[B, H_kv, T, d]` of a layer for its input `[B, T, D]`, in front of its norm."""
        attention, kind = _attention(layer), self._kind(layer)
        normed = _normed(layer, kind, hidden)
        if kind.latent:
            return latent_layers.values(attention, normed)
        # some layers take the projected keys for values, without a projection of their own
        module = getattr(attention, names.VALUE) or getattr(attention, names.PROJECTIONS["key"])
        states = module(normed)
        states = states.view(*states.shape[:-1], -1, int(getattr(attention, names.HEAD_WIDTH)))
        norm = getattr(attention, names.VALUE_NORM, None)
        heads: Tensor = states if norm is None else norm(states)
        return heads.transpose(1, 2)

    def query_key(
        self, layer: nn.Module, projections: Mapping[str, Tensor], rotary: Rotary
    ) -> tuple[Tensor, Tensor]:
        """Query `[B, H, T, d]` and key `[B, H_kv, T, d]`, scaled so that 1/sqrt(d) is implied.

        Args:
            layer: the decoder layer.
            projections: `[B, T, ...]` outputs of its projections, by name.
            rotary: cosines and sines `[B or 1, T, r]` with r <= d to rotate by; None for none.
        """
        attention, kind = _attention(layer), self._kind(layer)
        scaling = float(getattr(attention, names.SCALING))
        if kind.latent:
            query, key = latent_layers.query_key(attention, projections, rotary)
            return scaled(query, scaling), key
        width = int(getattr(attention, names.HEAD_WIDTH))
        query, key = (
            _heads(attention, kind, name, projections[name], width) for name in names.PROJECTIONS
        )
        query, key = (_rotated(attention, kind, states, rotary) for states in (query, key))
        if kind.behind is not None and hasattr(attention, kind.behind[0]):
            of_query, of_key = (getattr(attention, name) for name in kind.behind)
            query, key = of_query(query), of_key(key)
        factor = 1.0 if kind.factor is None else float(getattr(attention, kind.factor))
        return scaled(query, factor * scaling), key

    def ones(self, layer: nn.Module, hidden: Tensor, rotary: Rotary) -> Tensor:
        """Ones `[B, 1, T, d]`, rotated as a layer's queries and keys, neither normed nor scaled."""
        attention, kind = _attention(layer), self._kind(layer)
        width = int(getattr(attention, latent_layers.WIDTH if kind.latent else names.HEAD_WIDTH))
        states = hidden.new_ones(hidden.shape[0], 1, hidden.shape[1], width)
        return _rotated(attention, kind, states, rotary)

    def softcap(self, layer: nn.Module) -> float | None:
        """The c of logits that a layer caps to c tanh(logit / c); None where it doesn't."""
        value = getattr(_attention(layer), names.SOFTCAP) if self._kind(layer).capped else None
        return None if value is None else float(value)

    def seen(self, layer: nn.Module, call: LayerCall) -> Mask:
        """What queries of a prompt see: of what the mask shows them, what an indexer chose."""
        kind, attention = self._kind(layer), _attention(layer)
        if kind.indexed is None or getattr(attention, names.INDEXER) is None:
            return call.mask
        normed = _normed(layer, kind, call.hidden)
        return indexed_layers.CHOOSING[kind.indexed](attention, normed, call)

    def rotary_rows(
        self, language: nn.Module, layer: nn.Module, hidden: Tensor, positions: Tensor
    ) -> Rotary:
        """Cosines and sines `[B, T, r]` of a layer for position ids; None where it doesn't rotate.

        Args:
            language: the LLM without head, which makes them for all layers.
            layer: the decoder layer.
            hidden: `[B, T, D]` its input, whose type and device the rows get.
            positions: `[B, T]`.
        """
        made, config = {POSITIONS: positions}, language.config
        bases = getattr(config, names.BASES, None)
        if bases is not None and not bases[_number(layer)]:
            return None
        if self._kind(layer).typed:
            made[names.LAYER_TYPE] = getattr(config, names.LAYER_TYPES)[_number(layer)]
        cos, sin = getattr(language, names.ROTARY_EMBEDDING)(hidden, **made)
        return cos, sin

    def _found(self, layer: nn.Module) -> names.LayerKind | None:
        known = (self._kinds[name] for name in class_names(layer) if name in self._kinds)
        return next(known, None)

    def _kind(self, layer: nn.Module) -> names.LayerKind:
        kind = self._found(layer)
        assert kind is not None, f"{type(layer).__name__}: check_layers and no_query_key come first"
        return kind


def _attention(layer: nn.Module) -> Any:
    return getattr(layer, names.ATTENTION)


def _number(layer: nn.Module) -> int:
    return int(getattr(_attention(layer), names.NUMBER))


def _normed(layer: nn.Module, kind: names.LayerKind, hidden: Tensor) -> Tensor:
    """A layer's input as its attention gets it."""
    if kind.streams is not None:
        part, output = getattr(layer, kind.streams), kind.output
        hidden = predicted(part, hidden) if output is None else mixed(part, hidden, output)
    if getattr(layer, kind.bare) if isinstance(kind.bare, str) else kind.bare:
        return hidden
    normed: Tensor = first_of(layer, names.NORMS)(hidden)
    return normed


def _heads(attention: Any, kind: names.LayerKind, name: str, states: Tensor, width: int) -> Tensor:
    """Heads `[B, H, T, d]` of what a projection put out, normed, but not rotated."""
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
