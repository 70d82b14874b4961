"""How one prompt was shortened, layer by layer, and how KV caches are cut to that.

Index words (prompt place, input column, slot) are those of `level`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.llm.cut import Cut
from tokenprune.engine.llm.level import Level, spread
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.calls import LlmOutputs


@dataclass
class Layout:
    """The shortened prompt of a batch. It travels with the KV cache that was built from it.

    Attributes:
        owner: name of the attachment that made it.
        length: tokens per row of the user's prompt.
        entry: the LLM's input.
        shortened: whether the LLM's input is shorter than the prompt.
        cuts: decisions in front of layers, by layer.
        trim: after prefill, layers below this one keep only the cache entries that this layer
            keeps.
        tail: tokens behind the prompt, without a cache.
        base: the layer whose cache the LLM takes for its length, once caches are trimmed.
        begun: whether the first token of every row is known to be left in all layers.
    """

    owner: str
    length: int
    entry: Level
    shortened: bool
    cuts: dict[int, Cut] = field(default_factory=dict)
    trim: int = 0
    tail: int = 0
    base: int = 0
    begun: bool = False

    @property
    def changes(self) -> bool:
        """Whether anything was removed anywhere."""
        return self.shortened or bool(self.cuts)

    def cut_before(self, layer: int) -> Cut | None:
        """The latest decision that the input of `layer` went through."""
        passed = [number for number in self.cuts if number <= layer]
        return self.cuts[max(passed)] if passed else None

    def level(self, layer: int) -> Level:
        """The sequence in layer `layer`."""
        cut = self.cut_before(layer)
        return self.entry if cut is None else cut.level

    def counted(self, layer: int) -> Level:
        """The sequence in layer `layer`, with removals counted from the LLM's input on.

        In front of the first cut none is counted, since layers see the LLM's input as it is.
        """
        cut = self.cut_before(layer)
        return self.entry.recounted() if cut is None else cut.level

    def trimmed(self, layer: int) -> Tensor:
        """`[B, T]` by slot of `layer`, True for what leaves its cache after the prompt."""
        deep, level = self.level(self.trim), self.level(layer)
        stays = deep.valid.new_zeros(deep.column.shape[0], self.entry.length)
        return ~stays.scatter(1, deep.column, deep.valid).gather(1, level.column)

    @property
    def lack(self) -> int:
        """How many tokens of the prompt the first layer's cache lacks."""
        return self.length - self.entry.length

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return self.entry.place.shape[0]

    def of_rows(self, rows: Tensor) -> Layout:
        """The layout of some rows, for what stands behind them: `[n]` their numbers, or bool."""
        cuts = {number: Cut(cut.level.of_rows(rows), ()) for number, cut in self.cuts.items()}
        return replace(self, entry=self.entry.of_rows(rows), cuts=cuts)

    def cropped(self, count: int) -> Layout:
        """The layout of a prompt whose last `count` tokens have left all layers' caches.

        Raises:
            UnsupportedCallError: these aren't the same tokens in all layers and rows.
        """
        first = self.length - count
        for level in (self.entry, *(cut.level for cut in self.cuts.values())):
            last = torch.arange(first, self.length, device=level.place.device)
            stood = level.place[:, -count:] == last if level.length > count else None
            if stood is None or not bool((stood & level.valid[:, -count:]).all()):
                raise UnsupportedCallError(
                    f"{count} tokens of the prompt have left the cache, and not every layer and "
                    "row held the same ones last: visual tokens are removed, or padding follows.",
                    where="KV cache",
                    remedy="Crop no further than to the last picture, and pad in front.",
                )
        cuts = {number: Cut(cut.level.cropped(count), ()) for number, cut in self.cuts.items()}
        return replace(self, length=first, entry=self.entry.cropped(count), cuts=cuts)

    def spread(self, short: LlmOutputs, layers: int) -> LlmOutputs:
        """What an LLM of some layers puts out, with states at the prompt's own places."""
        length, begun = self.length, self.begun
        last = spread(short.last, self.level(layers), length, begun=begun)
        states = short.states and tuple(
            state
            if state is None
            else last
            if state is short.last
            else spread(state, self.level(number - 1), length, begun=begun)
            for number, state in enumerate(short.states)
        )
        return LlmOutputs(last, states)

    def longer(self, tail: int) -> Layout:
        """The same decisions for a prompt with `tail` tokens of text behind it."""
        if not tail:
            return self
        longer = Layout(
            self.owner,
            self.length + tail,
            self.entry.longer(tail, self.length, self.entry.length, self.length),
            self.shortened,
            trim=self.trim,
            tail=self.tail + tail,
            base=self.base,
            begun=self.begun,
        )
        before = self.entry.length
        for number, cut in sorted(self.cuts.items()):
            level = cut.level.longer(tail, self.length, self.entry.length, before)
            longer.cuts[number] = Cut(level, cut.writes)
            before = cut.level.length
        return longer


def trim_caches(layout: Layout, adapter: MllmAdapter, cache: Any) -> None:
    """Cut the caches of the layers in front of `layout.trim` to what that layer holds.

    Where the LLM's first layer with keys lacks tokens, its new input is what that layer holds.
    """
    deep = layout.level(layout.trim)
    for layer in range(layout.trim):
        if layout.cut_before(layer) is not layout.cut_before(layout.trim):
            # what the deep layer keeps, said in the slots of this one
            slots = _slot_of(layout.level(layer), layout.entry.length).gather(1, deep.column)
            adapter.trim_cache(cache, layer, slots)
    if layout.cut_before(layout.base) is not None:
        adapter.enter_cache(cache, layout.level(layout.base).column)


def continued(layout: Layout) -> Layout:
    """The layout for new tokens behind the cache.

    The LLM takes the first layer's cache for its input, so what that layer holds becomes the entry
    in which columns are counted: less than the LLM's input where a stage trimmed it, or pruned in
    front of layer 0. Survivors and new tokens keep the positions they have in each layer.
    """
    if layout.cut_before(layout.base) is None:
        return layout
    # after trimming, layers up to `base` hold the slots of layer `base`; these are the new columns
    base = layout.level(layout.base)
    deep = base.entered()

    def counted_as(level: Level) -> Level:
        gone = deep.gone and level.gone and replace(deep.gone, removed=level.gone.removed)
        return replace(deep, gone=gone)

    column_of = _slot_of(base, layout.entry.length)
    cuts = {}
    for number, cut in layout.cuts.items():
        if number <= layout.base:
            level = counted_as(cut.level)
        else:
            level = replace(cut.level, column=column_of.gather(1, cut.level.column))
        cuts[number] = Cut(level, ())
    return replace(layout, entry=counted_as(layout.entry), shortened=True, cuts=cuts)


def _slot_of(level: Level, length: int) -> Tensor:
    """Slot of every input column in a level, `[B, length]`; 0 for those that aren't in it."""
    own = torch.arange(level.length, device=level.column.device).expand_as(level.column)
    slots = level.column.new_zeros(level.column.shape[0], length)
    return slots.scatter(1, level.column, own)
