"""How transformers calls a multimodal LLM, its LLM and its layers: the same for all families."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenprune.errors import UnsupportedCallError
from tokenprune.errors.words import indefinite
from tokenprune.interface.calls import (
    Arguments,
    Entry,
    LayerCall,
    LlmCall,
    LlmOutputs,
    PromptCall,
    Rotary,
    Written,
)
from tokenprune.interface.signals import LLM_VIEWS, LayerValues, PromptEmbeddings, View
from tokenprune_adapters.shared.arguments import named, replaced
from tokenprune_adapters.transformers import attention_functions, words
from tokenprune_adapters.transformers import llm_names as names
from tokenprune_adapters.transformers.cache_notes import LENGTH
from tokenprune_adapters.transformers.caches import TransformersCaches
from tokenprune_adapters.transformers.layer_reader import LayerReader
from tokenprune_adapters.transformers.layers import first_of


class TransformersMllm(LayerReader, TransformersCaches):
    """Base of the adapters of families in transformers.

    Class attributes:
        pictures: arguments that bring pictures or videos.
    """

    supplies: ClassVar[frozenset[type[View]]] = LLM_VIEWS | {PromptEmbeddings, LayerValues}
    pictures: ClassVar[tuple[str, ...]] = (names.PICTURES,)

    def read_prompt(self, entry: Entry, args: tuple[Any, ...], kwargs: Arguments) -> PromptCall:
        """What a call of the whole model says."""
        owner = self.spec().core if entry == "core" else self.model
        method = "generate" if entry == "generate" else "forward"
        given = named(getattr(type(owner), method), args, kwargs)
        if entry == "generate":
            self._add_settings(given)
        if entry != "model":  # its call goes on to the core, where settings are looked at
            self._add_config(given)
        ids = given.get(names.IDS)
        cache_name, cache = _given_cache(given)
        if entry == "generate":
            ids = given.get(names.GENERATE_IDS) if ids is None else ids
            ids = _behind(cache, ids, given.get(names.MASK))
        return PromptCall(
            ids=ids,
            mask=given.get(names.MASK),
            positions=given.get(names.POSITIONS),
            labels=given.get(names.LABELS),
            pictured=any(given.get(name) is not None for name in self.pictures),
            pixels={name: given.get(name) for name in self.pictures},
            encoded=any(features is not None for features in encoded(given).values()),
            cache=cache,
            cache_name=cache_name,
            preallocated=bool(getattr(cache, names.PREALLOCATED, False)),
            packed=entry == "core" and _packed(given),  # the model's call goes on to the core
            arguments=given,
        )

    def _add_settings(self, given: dict[str, Any]) -> None:
        """Add what a configuration says where a call of `generate` is silent."""
        configs = (given.get(names.CONFIG), getattr(self.model, names.CONFIG, None))
        for name in names.REFUSED_GENERATION:
            values = (given.get(name), *(getattr(config, name, None) for config in configs))
            given[name] = next((value for value in values if value is not None), None)

    def _add_config(self, given: dict[str, Any]) -> None:
        """Add what the config says now where a call of the model is silent."""
        spec = self.spec()
        read: Any = (self.model, spec.core, spec.language_model)
        # which may be one and the same
        found = {id(one): one for one in (getattr(part, names.MODEL_CONFIG, None) for part in read)}
        for name in (*spec.fixed, *spec.refused):
            if given.get(name) is None:
                values = (_said(config, name) for config in found.values())
                given[name] = next((value for value in values if value), None)

    def write_prompt(
        self, entry: Entry, call: PromptCall, args: tuple[Any, ...], kwargs: Arguments
    ) -> Written:
        """The call's arguments with another mask, and another cache if it has one."""
        owner = self.spec().core if entry == "core" else self.model
        new = {names.MASK: call.mask}
        if call.cache is not None:
            new[call.cache_name] = call.cache
        return written(owner, args, kwargs, new)

    def padding(self, args: tuple[Any, ...], kwargs: Arguments) -> Any:
        """The mask that `generate` makes a forward's arguments of."""
        return named(getattr(type(self.model), names.PREPARES), args, kwargs).get(names.MASK)

    def read_llm(self, args: tuple[Any, ...], kwargs: Arguments) -> LlmCall:
        """What a call of the LLM says."""
        spec = self.spec()
        given = named(type(spec.language_model).forward, args, kwargs)
        cache_name, cache = _given_cache(given)
        return LlmCall(
            embeds=given.get(names.EMBEDS),
            mask=given.get(names.MASK),
            positions=given.get(names.POSITIONS),
            cache=cache,
            cache_name=cache_name,
            per_token=_present(given, spec.per_token),
        )

    def write_llm(self, call: LlmCall, args: tuple[Any, ...], kwargs: Arguments) -> Written:
        """The LLM's arguments as `call` says."""
        new = {
            names.EMBEDS: call.embeds,
            names.MASK: call.mask,
            names.POSITIONS: call.positions,
            **call.per_token,
        }
        return written(self.spec().language_model, args, kwargs, new)

    def read_outputs(self, outputs: Any) -> LlmOutputs:
        """What the LLM put out.

        Raises:
            UnsupportedCallError: a plain tuple, in which nothing has a name.
        """
        last = getattr(outputs, names.LAST, None)
        if last is None:
            raise UnsupportedCallError(
                f"the LLM put out {indefinite(type(outputs).__name__)} without {names.LAST}.",
                where=type(self.spec().language_model).__name__,
                remedy="Call the model with return_dict=True, the default.",
            )
        return LlmOutputs(last, getattr(outputs, names.HIDDEN, None))

    def write_outputs(self, new: LlmOutputs, outputs: Any) -> Any:
        """The LLM's outputs with new states; changed in place, as their class allows."""
        setattr(outputs, names.LAST, new.last)
        if new.states is not None:
            setattr(outputs, names.HIDDEN, new.states)
        return outputs

    def read_layer(self, layer: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> LayerCall:
        """What a call of a layer says."""
        given = _layer_arguments(layer, args, kwargs)
        return LayerCall(
            hidden=given[names.HIDDEN],
            mask=given.get(names.MASK),
            positions=given.get(names.POSITIONS),
            rotary=given.get(names.ROTARY),
            per_token=_present(given, self.spec().per_token),
        )

    def write_layer(
        self, layer: nn.Module, call: LayerCall, args: tuple[Any, ...], kwargs: Arguments
    ) -> Written:
        """A layer's arguments as `call` says."""
        new = {
            names.MASK: call.mask,
            names.POSITIONS: call.positions,
            names.ROTARY: call.rotary,
            **call.per_token,
        }
        if len(args) == 1:  # as LLMs call their layers: nobody has to ask how arguments are named
            return (call.hidden,), {**kwargs, **_told(new, kwargs)}
        return written(layer, args, kwargs, {names.HIDDEN: call.hidden, **new})

    def ignores_positions(self) -> bool:
        """Whether the LLM runs an attention of torch; that of others may look for borders."""
        return self.plain_attention()

    def additive_masks(self) -> torch.dtype | None:
        """The eager attention adds masks to logits."""
        language: Any = self.spec().language_model
        eager = getattr(language.config, names.IMPLEMENTATION) == names.EAGER
        return language.dtype if eager else None

    def maskless(self) -> str | None:
        """An attention function that a user registered without one for its masks."""
        return attention_functions.maskless(self.spec().language_model)

    def run_text(self, ids: Tensor) -> Tensor:
        """The LLM's last states `[B, T, d_llm]` for token ids `[B, T]`, without cache."""
        language: Any = self.spec().language_model
        given = {names.EMBEDS: self.embed(ids), names.USE_CACHE: False}
        return self.read_outputs(language(**given)).last

    def embed(self, ids: Tensor) -> Tensor:
        """Rows of the embedding table for token ids; an offloaded one fetches weights and ids."""
        language: Any = self.spec().language_model
        embedding = language.get_input_embeddings()
        device = embedding.weight.device
        rows: Tensor = embedding(ids if device.type == "meta" else ids.to(device))
        return rows

    def reader(self, tokenizer: str | None = None) -> Callable[[Tensor], str]:
        """What turns token ids `[T]` into words, by the tokenizer of the model's own checkpoint."""
        return words.reader(self.model, tokenizer)

    def rotary(self, layer: nn.Module, hidden: Tensor, positions: Tensor) -> Rotary:
        """Cosines and sines of position ids `[B, T]`, those of the layer's own type."""
        language = self.spec().language_model
        return self.rotary_rows(language, layer, hidden, positions)

    def final_norm(self, hidden: Tensor) -> Tensor:
        """States `[..., D]` through the norm behind the LLM's last layer."""
        normed: Tensor = first_of(self.spec().language_model, names.FINAL_NORMS)(hidden)
        return normed

    def counted(self, rotary: Rotary, first: Tensor) -> Rotary:
        """Cosines and sines of the differences of angles: those of a - b from those of a and b.

        Some families scale both, so the length of the pair is divided out once.
        """
        if rotary is None:
            return None
        shape = (first.shape[0], *rotary[0].shape[-2:])
        cos, sin = (part.float().expand(*part.shape[:-3], *shape) for part in rotary)
        rows, start = torch.arange(first.shape[0], device=cos.device), first.to(cos.device)
        cos_0, sin_0 = (part[..., rows, start, :].unsqueeze(-2) for part in (cos, sin))
        scale = (cos_0.square() + sin_0.square()).sqrt()
        turned = (cos * cos_0 + sin * sin_0) / scale, (sin * cos_0 - cos * sin_0) / scale
        return tuple(part.to(rotary[0].dtype) for part in turned)


def _said(config: Any, name: str) -> Any:
    """A setting of a config; None without it, which takes far less time than asking for it."""
    kind = type(config)
    own = vars(config) if config is not None else ()
    there = name in own or hasattr(kind, name) or name in getattr(kind, names.OTHER_NAMES, ())
    return getattr(config, name, None) if there else None


def _packed(given: Arguments) -> bool:
    """Whether a row holds several samples: transformers tells them by their position ids.

    It takes every step other than one for a border where there is no mask. Of three rows, for time,
    height and width, the first stays equal within a picture and jumps behind it.
    """
    if any(given.get(name) is not None for name in names.PACKED):
        return True
    positions = given.get(names.POSITIONS)
    if positions is None or given.get(names.MASK) is not None:
        return False
    if positions.shape[-1] < 2:  # a step of decoding
        return False
    text = (positions if positions.dim() == 2 else positions[0]).cpu()
    steps = text.diff(dim=-1)
    return bool(((steps < 0) if positions.shape[:-2] == (3,) else (steps != 1)).any())


def _given_cache(given: Arguments) -> tuple[str, Any]:
    for name in names.CACHE_NAMES:
        if given.get(name) is not None:
            return name, given[name]
    return names.CACHE_NAMES[0], None


def encoded(given: Arguments) -> Mapping[str, Any]:
    """Features that were encoded before the call, by kind of picture; a bare tensor is of images.

    Args:
        given: arguments of the model by name.
    """
    found = given.get(names.ENCODED)
    return {"image": found} if isinstance(found, Tensor) else found or {}


def _behind(cache: Any, ids: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """The tokens that `generate` goes on with, given those of a whole chat or the new ones alone.

    It tells them apart by the mask, which is that of the whole chat; without one it makes it of as
    many tokens as it is given.
    """
    length = getattr(cache, LENGTH, None)
    held = 0 if ids is None or length is None else int(length())
    if ids is None or not 0 < held < ids.shape[1]:
        return ids
    if mask is not None and mask.shape[1] != ids.shape[1]:
        return ids
    return ids[:, held:]


def _present(given: Arguments, wanted: Mapping[str, int]) -> dict[str, Tensor]:
    return {name: given[name] for name in wanted if given.get(name) is not None}


def written(
    owner: nn.Module, args: tuple[Any, ...], kwargs: Arguments, new: Mapping[str, Any]
) -> Written:
    """What isn't there stays away, unless the caller had given it."""
    forward = type(owner).forward
    return replaced(forward, args, kwargs, _told(new, named(forward, args, kwargs)))


def _told(new: Mapping[str, Any], given: Arguments) -> dict[str, Any]:
    return {name: value for name, value in new.items() if value is not None or name in given}


def _layer_arguments(layer: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> Arguments:
    """The arguments of a layer by name; the first one is its input."""
    if len(args) == 1:
        return {names.HIDDEN: args[0], **kwargs}
    return named(type(layer).forward, args, kwargs)
