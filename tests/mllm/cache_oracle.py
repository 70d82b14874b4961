"""Greedy decoding of one sample by hand, layer by layer, with a cache that is cut by place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.mllm.calls import with_cache
from tests.mllm.oracle import Sample


@dataclass(frozen=True)
class Keep:
    """A cut in front of a layer.

    Attributes:
        layer: the layer.
        places: what goes on, as places in the unpruned prompt.
        trims: whether the caches of the layers before it are cut to the same.
    """

    layer: int
    places: frozenset[int]
    trims: bool = False


@torch.no_grad()
def greedy(
    model: Any, one: Sample, steps: int, cuts: Sequence[Keep], compact: bool = False
) -> tuple[Tensor, list[int]]:
    """Logits of every step `[steps, V]`, and the length of every layer's cache after the prompt."""
    from transformers import DynamicCache

    language = model.model.language_model
    cache, stored = DynamicCache(), []
    removed = [0] * len(language.layers)
    hidden, place = one.embeds[None], one.place
    for number, layer in enumerate(language.layers):
        for cut in cuts:
            if cut.layer == number:
                stay = [c for c, p in enumerate(place.tolist()) if p in cut.places]
                hidden, place = hidden[:, stay], place[stay]
        stored.append(place)
        removed[number] = one.length - len(place)
        hidden = _through(model, layer, hidden, _numbered(place, compact), cache)
    lengths = []
    for number in range(len(language.layers)):
        trims = [cut for cut in cuts if cut.trims and cut.layer > number]
        places = stored[number].tolist()
        stay = [c for c, p in enumerate(places) if all(p in cut.places for cut in trims)]
        part = cache.layers[number]
        part.keys, part.values = part.keys[:, :, stay], part.values[:, :, stay]
        lengths.append(len(stay))
    logits = []
    for step in range(steps):
        logits.append(model.lm_head(language.norm(hidden))[0, -1])
        hidden = model.get_input_embeddings()(logits[-1].argmax().view(1, 1))
        for number, layer in enumerate(language.layers):
            at = one.length + step - (removed[number] if compact else 0)
            hidden = _through(model, layer, hidden, torch.tensor([at]), cache)
    return torch.stack(logits), lengths


def _numbered(place: Tensor, compact: bool) -> Tensor:
    return torch.arange(len(place)) if compact else place


def _through(model: Any, layer: Any, hidden: Tensor, position: Tensor, cache: Any) -> Tensor:
    rows = model.model.language_model.rotary_emb(hidden, position_ids=position[None])
    count = hidden.shape[1]
    mask = torch.zeros(1, 1, count, count)
    mask = mask.masked_fill(~torch.ones(count, count, dtype=torch.bool).tril(), float("-inf"))
    out: Tensor = layer(
        hidden,
        attention_mask=mask if count > 1 else None,
        position_embeddings=rows,
        **with_cache(layer, cache),
    )
    return out
