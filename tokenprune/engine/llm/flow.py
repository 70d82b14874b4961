"""One forward of the LLM over a shortened sequence: what its layers are called with.

Index words (prompt place, input column, slot) are those of `level`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from tokenprune.engine.llm.alike import Alike, Kind, Made
from tokenprune.engine.llm.calls import renumbered, taken
from tokenprune.engine.llm.earlier_turns import EarlierTurns
from tokenprune.engine.llm.layout import Layout
from tokenprune.engine.llm.level import Level, take
from tokenprune.engine.llm.masks import behind, hide_behind, narrow, within
from tokenprune.interface.calls import LayerCall, Rotary
from tokenprune.interface.specs import MllmSpec

Mode = Literal["first", "again", "continue"]
"""A forward over a prompt, over a prompt and what was generated behind it (without cache), or over
new tokens behind a cache."""


@dataclass(frozen=True)
class Behind:
    """What is known of the layers' keys behind a cache whose masks the engine makes.

    Attributes:
        keys: how many every layer's cache holds.
        tail: `[B, t]` False for padding behind the prompt; None for none.
    """

    keys: Sequence[int]
    tail: Tensor | None


@dataclass
class Flow:
    """One forward of the LLM over a shortened sequence.

    Attributes:
        layout: how the sequence is shortened; of a further turn of a chat, that of the turn by
            itself.
        mode: `first`: decisions are made now; `again`: they are repeated; `continue`: the prompt
            stands in the cache, as the decisions left it.
        spec: the model.
        compact: whether what decoder stages leave is renumbered.
        flat: whether attention takes `[B, T]` masks only.
        rotary: rotary rows of a layer, by its number, for a layer's input and position ids.
        withheld: whether layers must not see position ids, see `MllmAdapter.ignores_positions`.
        past: length of the first layer's cache.
        behind: set in `continue` if the core makes masks, which it can't for a short cache.
        earlier: set in `first` if a further turn of a chat runs behind earlier ones.
        layer: the layer that ran last.
        alike: what layers were called with so far.
        added: rows `[B, T, D]` of the LLM's input that are added to what layers behind the first
            cut are called with, by layer.
    """

    layout: Layout
    mode: Mode
    spec: MllmSpec
    compact: bool
    flat: bool
    rotary: Callable[[int, Tensor, Tensor], Rotary]
    withheld: bool = True
    past: int = 0
    behind: Behind | None = None
    earlier: EarlierTurns | None = None
    layer: int = -1
    alike: Alike = field(default_factory=Alike)
    added: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def windows(self) -> Sequence[int | None]:
        """Windows of the layers of an LLM that makes its masks by itself, see `MllmSpec.windows`.

        It would count those of a shortened prompt in slots, so the engine makes its layers' masks.
        """
        return () if self.spec.masks else self.spec.windows

    def untouched(self, layer: int) -> bool:
        """Whether a layer is called with what the LLM hands on, no matter what that is."""
        if any(one.cuts and one.cut_before(layer) is not None for one in self._layouts):
            return False
        if self._shortened and (self.withheld or self.windows):
            return False
        if self.earlier is not None and self.windows and layer not in self.spec.flat_layers:
            return False
        return self.behind is None and not self._hides_tail(layer)

    @property
    def _layouts(self) -> Sequence[Layout]:
        return (self.layout,) if self.earlier is None else (self.earlier.layout, self.layout)

    @property
    def _shortened(self) -> bool:
        """Whether the LLM's input, or what the LLM takes for its own in a cache, has gaps."""
        return any(one.shortened for one in self._layouts)

    def layer_call(self, layer: int, call: LayerCall) -> LayerCall:
        """What a layer is called with, from a call whose `hidden` `[B, T, D]` alone is shortened.

        Position ids are withheld: only FlashAttention's detection of packed sequences would read
        them, and mistake the gaps for sequence borders. The rotary rows carry the positions. Layers
        that are untouched keep them, and those that compute with them get what is left of them.
        """
        if torch.compiler.is_compiling():
            return self._make(layer, call)
        # rows that a layer makes by itself may be of its own type
        own = layer if self.compact and call.rotary is None else None
        kind, of = (*self.kind(layer), own), (call.mask, call.positions, call.rotary)
        known = self.alike.call(kind, of)
        if known is not None:
            _, _, mask, positions, rotary = known
            return LayerCall(call.hidden, mask, positions, rotary, self._rest(layer, call))
        new = self._make(layer, call)
        self.alike.made.append(Made(kind, of, new.mask, new.positions, new.rotary))
        return new

    def kind(self, layer: int) -> Kind:
        """What tells layers apart that are handed the same objects."""
        windows, known = self.windows, self.behind
        window = windows[layer] if windows else None
        keys = known and (known.keys[layer], self._window(layer))
        if self.earlier is not None and window is not None:
            keys = self.earlier.keys[layer], window
        cuts = tuple(id(one.cut_before(layer)) for one in self._layouts)
        return cuts, layer in self.spec.flat_layers, window, keys, self._hides_tail(layer)

    def _window(self, layer: int) -> int | None:
        return self.spec.windows[layer] if self.spec.windows else None

    def _rest(self, layer: int, call: LayerCall) -> Mapping[str, Tensor]:
        """Further arguments, which may be of each layer's own: in a prompt those of survivors."""
        cut = self.layout.cut_before(layer)
        if cut is None or self.mode == "continue" or not call.per_token:
            return call.per_token
        return taken(call.per_token, cut.level.column, self.spec.per_token)

    def _hides_tail(self, layer: int) -> bool:
        layout = self.layout
        return self.mode == "again" and layer < layout.trim and layout.tail > 0

    def _make(self, layer: int, call: LayerCall) -> LayerCall:
        left = self._for_what_is_left(layer, call)
        padding = self.flat or layer in self.spec.flat_layers
        if self.behind is not None and layer not in self.spec.flat_layers:
            return replace(left, mask=self._own_mask(self.behind, layer, call))
        if self.earlier is not None and self.windows and layer not in self.spec.flat_layers:
            level, window = self.layout.level(layer), self.windows[layer]
            mask = self.earlier.within(layer, level, window, call.mask, flat=self.flat)
            return replace(left, mask=mask)
        cut = self.layout.shortened or self.layout.cut_before(layer) is not None
        if self.windows and not padding and cut:
            level = self.layout.level(layer)
            place, valid, window = level.place, level.valid, self.windows[layer]
            left = replace(left, mask=within(place, valid, level.length, window, call.mask))
        if self._hides_tail(layer):
            # with a cache, it would have been trimmed before the tail was generated
            mask = hide_behind(
                left.mask,
                self.layout.trimmed(layer),
                self.layout.level(layer).valid,
                tail=self.layout.tail,
                flat=self.flat,
            )
            return replace(left, mask=mask)
        return left

    def _for_what_is_left(self, layer: int, call: LayerCall) -> LayerCall:
        """The call with mask, rotary rows and the like of the tokens that are left there."""
        if all(one.cut_before(layer) is None for one in self._layouts):
            # what the LLM prepared for its input is right, and gaps are in its position ids only if
            # the input was shortened
            withheld = self._shortened and not self.spec.placed
            return replace(call, positions=None) if withheld else call
        level, goes_on = self.layout.counted(layer), self.mode == "continue"
        mask, flat = call.mask, layer in self.spec.flat_layers
        if self.earlier is not None and not (flat or self.windows):
            mask = self.earlier.narrow(layer, level, mask, flat=self.flat)
        elif self._of_these(mask) and not (flat and goes_on):
            columns, valid = level.column, level.valid
            if goes_on and (mask is not None or level.padded):
                columns, valid = self._columns_with_tail(level, call.hidden.shape[1])
            flat, queries = self.flat or flat, None if goes_on else level.column
            mask = narrow(mask, columns, valid, padded=level.padded, queries=queries, flat=flat)
        rotary = self._rotary_rows(layer, level, call)
        positions = self._positions(layer, level, call) if self.spec.placed else None
        return LayerCall(call.hidden, mask, positions, rotary, self._rest(layer, call))

    def _of_these(self, mask: Tensor | None) -> bool:
        """Whether a mask is of the LLM's input, and of no keys in front of that of a turn."""
        if self.earlier is None:
            return self.behind is None
        return isinstance(mask, Tensor) and mask.shape[-1] == self.layout.entry.length

    def _rotary_rows(self, layer: int, level: Level, call: LayerCall) -> Rotary:
        """Rotary rows of the queries; of all keys for layers that rotate keys later on."""
        if self.compact:
            return self.rotary(layer, call.hidden, self._renumbered(layer, level, call))
        if call.rotary is None:
            return None
        columns = level.column
        if self.mode == "continue":
            # queries are new tokens: their own rows are right, their keys are this layer's cache
            if call.rotary[0].shape[-2] <= call.hidden.shape[1]:
                return call.rotary
            columns, _ = self._columns_with_tail(level, call.hidden.shape[1])
        elif self.earlier is not None and call.rotary[0].shape[-2] > self.layout.entry.length:
            columns = self.earlier.columns(layer, level)
        # queries are the survivors: pick their rows out of those of the LLM's input
        return tuple(take(part, columns) for part in call.rotary)

    def _positions(self, layer: int, level: Level, call: LayerCall) -> Tensor | None:
        """Position ids of the queries, where layers compute with them."""
        if self.compact:
            return self._renumbered(layer, level, call)
        if self.mode == "continue":
            return call.positions
        assert call.positions is not None
        return take(call.positions, level.column, axis=-1)

    def _renumbered(self, layer: int, level: Level, call: LayerCall) -> Tensor:
        """Position ids of the queries without gaps."""
        if self.mode == "continue":
            return renumbered(call.positions, level.removed)
        removed = level.ahead
        if self.earlier is not None:
            removed = removed + self.earlier.layout.counted(layer).removed
        return renumbered(call.positions, removed, level.column)

    def _own_mask(self, known: Behind, layer: int, call: LayerCall) -> Tensor | None:
        """The mask of new tokens over one layer's cache, which may hold the last keys only."""
        queries, level = call.hidden.shape[1], self.layout.level(layer)
        columns, valid = self._columns_with_tail(level, queries)
        batch, tail = columns.shape[0], columns.shape[1] - level.length
        more = torch.arange(self.layout.length, self.layout.length + tail, device=columns.device)
        place = torch.cat((level.place, more.expand(batch, -1)), dim=1)
        if known.tail is not None and tail:
            valid = torch.cat((valid[:, :-tail], known.tail.to(valid)), dim=1)
        count = known.keys[layer] + queries
        if self.flat:
            return valid[:, -count:].long()
        own = place[:, -count:], valid[:, -count:]
        return behind(*own, queries, self._window(layer), call.mask)

    def _columns_with_tail(self, level: Level, queries: int) -> tuple[Tensor, Tensor]:
        """Input columns of a layer's cache and the new tokens, `[B, K]`, and which are valid."""
        entry, batch = self.layout.entry.length, level.column.shape[0]
        tail = self.past - entry + queries
        more = torch.arange(entry, entry + tail, device=level.column.device).expand(batch, -1)
        columns = torch.cat((level.column, more), dim=1)
        return columns, torch.cat((level.valid, level.valid.new_ones(batch, tail)), dim=1)
