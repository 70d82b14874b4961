"""KV caches cut to what a later layer left, and the shortened prompt as decoding finds it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tokenprune.adapter import MllmAdapter
from tokenprune.engine.compaction import Level
from tokenprune.engine.cutting import Cut
from tokenprune.engine.layout import Layout


def trim_caches(layout: Layout, adapter: MllmAdapter, cache: Any) -> None:
    """Cut the caches of the layers in front of `layout.trim` to what that layer holds."""
    deep = layout.standing(layout.trim)
    for layer in range(layout.trim):
        if layout.cut_before(layer) is not layout.cut_before(layout.trim):
            columns = _slots(layout.standing(layer), layout.base.length).gather(1, deep.base)
            adapter.trim_cache(cache, layer, columns)


def continued(layout: Layout) -> Layout:
    """The layout for new tokens behind the cache.

    The LLM takes the first layer's cache for the input, so what that layer holds is the base of
    masks: less than the LLM's input where a stage trimmed it, or pruned in front of layer 0.
    Survivors and new tokens keep the positions they have in each layer.
    """
    if layout.cut_before(layout.trim) is None:
        return layout
    deep = layout.standing(layout.trim)
    own, slots = _own(deep), _slots(deep, layout.base.length)
    cuts = {}
    for number, cut in layout.cuts.items():
        level = replace(cut.level, base=slots.gather(1, cut.level.base))
        if number <= layout.trim:
            level = replace(deep, base=own, removed=cut.level.removed)
        cuts[number] = Cut(level, ())
    base = replace(deep, base=own, removed=layout.base.removed)
    return replace(layout, base=base, shortened=True, cuts=cuts)


def _own(level: Level) -> Tensor:
    return torch.arange(level.length, device=level.base.device).expand_as(level.base)


def _slots(level: Level, length: int) -> Tensor:
    """Slot of every column of the LLM's input in a level, `[B, length]`; 0 for those not in it."""
    slots = level.base.new_zeros(level.base.shape[0], length)
    return slots.scatter(1, level.base, _own(level))
