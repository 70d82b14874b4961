"""How one prompt was shortened, layer by layer, and what the layers have to be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from tokenprune.engine.compaction import Level, take
from tokenprune.engine.cutting import Cut
from tokenprune.engine.masks import hide_behind, narrow

Mode = Literal["first", "again", "continue"]


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
        rotary: position embeddings of position ids.
        past: length of the first layer's cache.
    """

    layout: Layout
    mode: Mode
    compact: bool
    flat: bool
    rotary: Callable[[Tensor, Tensor], Any]
    past: int = 0

    def arguments(self, layer: int, hidden: Tensor, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The keyword arguments of a layer for its shortened input `hidden` `[B, T, D]`.

        Position ids are withheld: only FlashAttention's detection of packed sequences would read
        them, and mistake the gaps for sequence borders. The rotary rows carry the positions.
        """
        told = self._told(layer, hidden, kwargs)
        if self.mode == "again" and layer < self.layout.trim and self.layout.tail:
            told["attention_mask"] = hide_behind(
                told.get("attention_mask"),
                self.layout.trimmed(layer),
                self.layout.level(layer).valid,
                tail=self.layout.tail,
                flat=self.flat,
            )
        return told

    def _told(self, layer: int, hidden: Tensor, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        cut = self.layout.cut_before(layer)
        if cut is None:
            return {**kwargs, "position_ids": None} if self.layout.shortened else dict(kwargs)
        level = cut.level
        rotary, position = kwargs["position_embeddings"], kwargs["position_ids"]
        if self.mode == "continue":
            columns, valid = self._with_tail(level, hidden.shape[1])
            if self.compact:
                rotary = self.rotary(hidden, _minus(position, level.removed[:, None]))
        else:
            columns, valid = level.base, level.valid
            if self.compact:
                places = _minus(take(position, level.base), level.shift)
                rotary = self.rotary(hidden, places)
            else:
                rotary = tuple(take(part, level.base) for part in rotary)
        mask = narrow(
            kwargs.get("attention_mask"),
            columns,
            valid,
            padded=level.padded,
            square=self.mode != "continue",
            flat=self.flat,
        )
        new = {"attention_mask": mask, "position_embeddings": rotary, "position_ids": None}
        return {**kwargs, **new}

    def _with_tail(self, level: Level, queries: int) -> tuple[Tensor, Tensor]:
        tail = self.past - self.layout.base.length + queries
        start, batch = self.layout.base.length, level.base.shape[0]
        more = torch.arange(start, start + tail, device=level.base.device).expand(batch, -1)
        columns = torch.cat((level.base, more), dim=1)
        return columns, torch.cat((level.valid, level.valid.new_ones(batch, tail)), dim=1)


def _minus(position: Tensor, removed: Tensor) -> Tensor:
    return (position - removed.to(position.device)).clamp(min=0)
