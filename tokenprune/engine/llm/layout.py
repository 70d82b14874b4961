"""How one prompt was shortened, layer by layer, and what the layers have to be told.

Three things follow from it: the arguments of every layer at prefill, KV caches cut to what a later
layer left, and positions and mask of new tokens behind such a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from tokenprune.engine.llm.cut import Cut
from tokenprune.engine.llm.level import Level, take
from tokenprune.engine.llm.masks import enter, hide_behind, narrow
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.calls import LayerCall, LlmCall, Rotary

Mode = Literal["first", "again", "continue"]
Axes = Mapping[str, int]


@dataclass
class Layout:
    """The shortened prompt of a batch. It travels with the KV cache that was built from it.

    Attributes:
        owner: name of the attachment that made it.
        length: tokens per row of the user's prompt.
        base: the LLM's input.
        shortened: whether the LLM's input is shorter than the prompt.
        cuts: decisions in front of layers.
        trim: after the prompt, the caches of the layers in front of this one hold what it holds.
        tail: tokens behind the prompt, without a cache.
    """

    owner: str
    length: int
    base: Level
    shortened: bool
    cuts: dict[int, Cut] = field(default_factory=dict)
    trim: int = 0
    tail: int = 0

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
        return self.base if cut is None else cut.level

    def standing(self, layer: int) -> Level:
        """The sequence in layer `layer`, with columns and removals counted in the LLM's input."""
        cut = self.cut_before(layer)
        return self.base.restarted() if cut is None else cut.level

    def trimmed(self, layer: int) -> Tensor:
        """`[B, T]` True for what leaves the cache of `layer` after the prompt."""
        deep, level = self.standing(self.trim), self.standing(layer)
        stays = deep.valid.new_zeros(deep.base.shape[0], self.base.length)
        return ~stays.scatter(1, deep.base, deep.valid).gather(1, level.base)

    def longer(self, tail: int) -> Layout:
        """The same decisions for a prompt with `tail` tokens of text behind it."""
        if not tail:
            return self
        longer = Layout(
            self.owner,
            self.length + tail,
            self.base.longer(tail, self.length, self.base.length, self.length),
            self.shortened,
            trim=self.trim,
            tail=self.tail + tail,
        )
        before = self.base.length
        for number, cut in sorted(self.cuts.items()):
            level = cut.level.longer(tail, self.length, self.base.length, before)
            longer.cuts[number] = Cut(level, cut.writes)
            before = cut.level.length
        return longer


@dataclass
class Flow:
    """One forward of the LLM over a shortened sequence.

    Attributes:
        layout: how the sequence is shortened.
        mode: `first`: decisions are made now; `again`: they are repeated, without cache;
            `continue`: new tokens behind a cache.
        compact: whether survivors are renumbered.
        flat: whether attention takes `[B, T]` masks only.
        rotary: rotary rows of a layer, by its number, for a layer's input and position ids.
        axes: where the tokens stand in further arguments, see `MllmSpec.per_token`.
        past: length of the first layer's cache.
    """

    layout: Layout
    mode: Mode
    compact: bool
    flat: bool
    rotary: Callable[[int, Tensor, Tensor], Rotary]
    axes: Axes
    past: int = 0

    def layer_call(self, layer: int, call: LayerCall) -> LayerCall:
        """A layer's call for its shortened input, which `call.hidden` `[B, T, D]` is already.

        Position ids are withheld: only FlashAttention's detection of packed sequences would read
        them, and mistake the gaps for sequence borders. The rotary rows carry the positions.
        """
        told = self._told(layer, call)
        if self.mode == "again" and layer < self.layout.trim and self.layout.tail:
            mask = hide_behind(
                told.mask,
                self.layout.trimmed(layer),
                self.layout.level(layer).valid,
                tail=self.layout.tail,
                flat=self.flat,
            )
            return replace(told, mask=mask)
        return told

    def _told(self, layer: int, call: LayerCall) -> LayerCall:
        cut = self.layout.cut_before(layer)
        if cut is None:
            return replace(call, positions=None) if self.layout.shortened else call
        level, rotary, rest = cut.level, call.rotary, call.per_token
        if self.mode == "continue":
            columns, valid = self._with_tail(level, call.hidden.shape[1])
            if self.compact:
                places = renumbered(call.positions, level.removed[:, None])
                rotary = self.rotary(layer, call.hidden, places)
        else:
            columns, valid = level.base, level.valid
            rest = taken(rest, level.base, self.axes)
            if self.compact:
                places = renumbered(call.positions, level.shift, level.base)
                rotary = self.rotary(layer, call.hidden, places)
            elif rotary is not None:
                rotary = tuple(take(part, level.base) for part in rotary)
        mask = narrow(
            call.mask,
            columns,
            valid,
            padded=level.padded,
            square=self.mode != "continue",
            flat=self.flat,
        )
        return LayerCall(call.hidden, mask, None, rotary, rest)

    def _with_tail(self, level: Level, queries: int) -> tuple[Tensor, Tensor]:
        tail = self.past - self.layout.base.length + queries
        start, batch = self.layout.base.length, level.base.shape[0]
        more = torch.arange(start, start + tail, device=level.base.device).expand(batch, -1)
        columns = torch.cat((level.base, more), dim=1)
        return columns, torch.cat((level.valid, level.valid.new_ones(batch, tail)), dim=1)


def taken(values: Mapping[str, Tensor], index: Tensor, axes: Axes) -> dict[str, Tensor]:
    """Further arguments of the LLM or of a layer for the tokens `index` `[B, K]`.

    Args:
        values: by name.
        index: which tokens of each row go on.
        axes: see `MllmSpec.per_token`.
    """
    return {name: take(value, index, axes[name]) for name, value in values.items()}


def renumbered(positions: Tensor | None, removed: Tensor, index: Tensor | None = None) -> Tensor:
    """Position ids without gaps.

    Args:
        positions: `[B or 1, T]`.
        removed: `[B, K]` or `[B, 1]` tokens that are gone in front.
        index: `[B, K]` which of them go on; None for all.

    Raises:
        UnsupportedCallError: there are none, or time, height and width are counted apart.
    """
    if positions is None or positions.dim() != 2:
        form = "no position ids" if positions is None else f"{tuple(positions.shape)} position ids"
        raise UnsupportedCallError(
            f"survivors can't be renumbered in an LLM that hands {form} to its layers.",
            where="positions: compact",
            remedy="Use positions: original.",
        )
    positions = positions if index is None else take(positions, index)
    return (positions - removed.to(positions.device)).clamp(min=0)


def shortened(layout: Layout, call: LlmCall, *, compact: bool, flat: bool, axes: Axes) -> LlmCall:
    """The LLM's call for its shortened input.

    Args:
        layout: how it is shortened.
        call: for the whole prompt.
        compact: whether survivors are renumbered.
        flat: whether attention takes `[B, T]` masks only.
        axes: see `MllmSpec.per_token`.
    """
    if not layout.shortened:
        return call
    assert call.embeds is not None
    base, embeds, positions = layout.base, call.embeds, call.positions
    if positions is None:
        positions = torch.arange(embeds.shape[1], device=embeds.device)[None]
    if compact:
        positions = renumbered(positions, base.shift, base.full)
    else:
        positions = take(positions, base.full, axis=-1)
    return replace(
        call,
        embeds=take(embeds, base.full),
        mask=enter(call.mask, base, layout.length, flat=flat),
        positions=positions,
        per_token=taken(call.per_token, base.full, axes),
    )


def continuation(layout: Layout, past: int, call: LlmCall, *, compact: bool, where: str) -> LlmCall:
    """The LLM's call for new tokens; positions go on after the unpruned length.

    Args:
        layout: how the prompt behind the cache was shortened.
        past: tokens in the first layer's cache.
        call: as the LLM was called.
        compact: whether survivors are renumbered.
        where: what the user calls the mask.

    Raises:
        UnsupportedCallError: the mask given isn't that of the whole sequence.
    """
    if not (layout.shortened or compact):
        return call
    assert call.embeds is not None
    base, new = layout.base, call.embeds.shape[1]
    seen, positions = layout.length + past - base.length, call.positions
    if positions is None:
        positions = torch.arange(seen, seen + new, device=call.embeds.device)[None]
    if compact:
        positions = renumbered(positions, base.removed[:, None])
    mask = call.mask
    if layout.shortened:
        mask = _with_tail(base, mask, layout.length, past + new, where)
    return replace(call, positions=positions, mask=mask)


def _with_tail(base: Level, mask: Any, length: int, total: int, where: str) -> Tensor | None:
    """The padding mask of a shortened prompt and the tokens behind it, `[B, total]`."""
    tail = total - base.length
    if mask is None:
        if not base.padded:
            return None
        return torch.cat((base.valid, base.valid.new_ones(base.valid.shape[0], tail)), 1).long()
    if getattr(mask, "shape", None) != (base.valid.shape[0], length + tail):
        raise UnsupportedCallError(
            f"a mask of shape {tuple(mask.shape)} behind a cache of {length} tokens in "
            f"{base.valid.shape[0]} rows.",
            where=where,
            remedy=f"Give the mask of all {length + tail} tokens.",
        )
    return torch.cat((base.valid.to(mask), mask[:, length:]), dim=1)


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
