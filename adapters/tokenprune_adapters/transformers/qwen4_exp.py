"""Qwen4-Exp: several streams of every token, n-grams of token ids beside them, chosen keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenprune.interface.calls import Arguments, LayerCall, Written
from tokenprune_adapters.transformers import layer_names
from tokenprune_adapters.transformers.families import Family, FamilyAdapter
from tokenprune_adapters.transformers.packed_families import packed

MODEL = "transformers.models.qwen4_exp.modeling_qwen4_exp"
CONV_MASK = "conv_mask"
"""Mask `[B, T]` of layers with linear attention; None where nothing is padding."""
NGRAMS = "ple_input_ids"
"""Token ids `[B, T]` of whose n-grams layers add embeddings."""
PLACES, PLACES_OF_CACHE = "indexer_position_ids", "position_ids"
"""Of a cache's layer, or of the cache in older releases: position ids `[3, B, T]` of all tokens."""
MIXER = "hyper_connection_mixer"
"""Of the LLM: what makes one normed state of a token's streams."""
_SHORT = "n-grams, like linear attention, are those of the shortened prompt"


class Qwen4ExpAdapter(FamilyAdapter):
    """Qwen4ExpForConditionalGeneration.

    Its layers hand on streams `[B, T, A D]`, which strategies inside the LLM see side by side: what
    merges tokens merges all of their streams.
    """

    name: ClassVar[str] = "qwen4_exp"
    claims: ClassVar[tuple[str, ...]] = (f"{MODEL}.Qwen4ExpForConditionalGeneration",)
    family: ClassVar[Family] = replace(packed(), per_token={NGRAMS: 1}, notes=(_SHORT,))
    towers: ClassVar[tuple[str, ...] | None] = family.towers
    renumbers: ClassVar[bool] = False
    limits: ClassVar[tuple[str, ...]] = family.limits

    def read_layer(self, layer: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> LayerCall:
        """What a call of a layer says, with the mask that this layer heeds."""
        call = super().read_layer(layer, args, kwargs)
        return call if _attends(layer) else replace(call, mask=kwargs.get(CONV_MASK))

    def write_layer(
        self, layer: nn.Module, call: LayerCall, args: tuple[Any, ...], kwargs: Arguments
    ) -> Written:
        """A layer's arguments as `call` says; dummies are no part of an n-gram."""
        if _attends(layer):
            return super().write_layer(layer, call, args, kwargs)
        ids = call.per_token.get(NGRAMS)
        if ids is not None and call.mask is not None:
            end = torch.where(call.mask.bool(), ids, self._end)
            call = replace(call, per_token={**call.per_token, NGRAMS: end})
        told = {**kwargs, CONV_MASK: call.mask}
        return super().write_layer(
            layer, replace(call, mask=kwargs.get("attention_mask")), args, told
        )

    def enter_cache(self, cache: Any, columns: Tensor) -> None:
        """Positions of the LLM's input, which the first layer with an indexer keeps for all."""
        part, name = cache.layers[self.spec().base], PLACES
        if not hasattr(part, name):
            part, name = cache, PLACES_OF_CACHE
        places = getattr(part, name)
        index = columns.to(places.device).expand(len(places), -1, -1)
        setattr(part, name, places.expand(-1, index.shape[1], -1).gather(-1, index))

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The norm behind the LLM's last layer, and what its streams become."""
        normed: Tensor = getattr(self.spec().language_model, MIXER)(hidden)
        return normed

    @property
    def _end(self) -> int:
        """What stands in the place of tokens in front of a prompt."""
        found = self._config.eos_token_id
        return int(found[0] if isinstance(found, list) else found)


def _attends(layer: nn.Module) -> bool:
    return hasattr(layer, layer_names.ATTENTION)
