"""KV caches of fixed length, such as those that compiled decoding needs.

A prompt runs with a cache that grows, as any other; what every layer left of it is moved to the
front of that layer's fixed cache. A token behind it sees, in each layer, what is valid there of the
prompt, and what was written since. Layers with states in place of keys go on from those that the
prompt left. Steps read nothing of the device, so they can be one graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tokenprune.engine.lines import sent
from tokenprune.engine.llm.layout import Layout
from tokenprune.engine.llm.level import Level
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.calls import PromptCall

_ENTRY = -1
"""Stands for the LLM's input among the layers that a decision was made in front of."""


@dataclass
class Fixed:
    """The note on a cache of fixed length whose prompt was run under a plan.

    Attributes:
        owner: name of the attachment.
        layout: how the prompt was shortened; None if nothing was removed.
        seen: by the layer that a decision was made in front of, `[B, S]` of the S slots in the
            caches of layers from there on: False for what no token sees of the prompt, True behind
            the prompt.
        lack: `[]` how many tokens the first layer's cache lacks of the prompt.
        windows: see `MllmSpec.windows`.
        places: like `seen`, the place of each slot in the whole sequence, in which windows are
            counted; empty without windows.
        generated: whether the running `generate` makes the masks of the steps; these say nothing of
            tokens behind the prompt, which are all seen.
    """

    owner: str
    layout: Layout | None
    seen: Mapping[int, Tensor]
    lack: Tensor
    windows: Sequence[int | None] = ()
    places: Mapping[int, Tensor] = field(default_factory=dict)
    generated: bool = False

    @classmethod
    def of(
        cls,
        owner: str,
        layout: Layout | None,
        slots: Callable[[int], int],
        device: torch.device,
        windows: Sequence[int | None],
    ) -> Fixed:
        """The note for a layout as it stands behind the prompt.

        Args:
            owner: name of the attachment.
            layout: None if nothing was removed.
            slots: of a layer's cache.
            device: of the cache.
            windows: see `MllmSpec.windows`.
        """
        if layout is None:
            return cls(owner, None, {}, torch.zeros((), dtype=torch.int64, device=device))
        levels = {_ENTRY: layout.entry, **{layer: cut.level for layer, cut in layout.cuts.items()}}
        lack = torch.tensor(layout.lack, device=device)
        room = {layer: slots(max(layer, layout.base)) for layer in levels}
        seen = {one: _seen(level, room[one], device) for one, level in levels.items()}
        note = cls(owner, layout, seen, lack, windows)
        if windows:
            note.places = {
                one: _places(level, room[one], layout.length, device)
                for one, level in levels.items()
            }
        return note

    @property
    def rows(self) -> int:
        """Rows of the batch; 0 if all are alike."""
        return 0 if self.layout is None else self.layout.rows

    def of_rows(self, rows: Tensor) -> Fixed:
        """The note for some rows: `[n]` their numbers, or `[B]` bool."""
        if self.layout is None:
            return self
        seen, places = (
            {layer: part[sent(rows, part.device)] for layer, part in parts.items()}
            for parts in (self.seen, self.places)
        )
        return replace(self, layout=self.layout.of_rows(rows), seen=seen, places=places)

    def window(self, layer: int) -> int | None:
        """The window of a layer; None for none."""
        return self.windows[layer] if self.windows else None

    def told(self, tail: Tensor | None) -> Mapping[int, Tensor]:
        """`seen`, with the padding `[B, t]` of what stands behind the prompt, if there is any."""
        if tail is None or self.layout is None:
            return self.seen
        found = {}
        for layer, seen in self.seen.items():
            length = self.layout.level(max(layer, self.layout.base)).length
            found[layer] = torch.cat(
                (seen[:, :length], tail.to(seen), seen[:, length + tail.shape[1] :]), dim=1
            )
        return found


def _seen(level: Level, slots: int, device: torch.device) -> Tensor:
    valid = sent(level.valid, device)
    return torch.cat((valid, valid.new_ones(valid.shape[0], slots - level.length)), dim=1)


def _places(level: Level, slots: int, length: int, device: torch.device) -> Tensor:
    place = sent(level.place, device)
    behind = torch.arange(length, length + slots - level.length, device=device)
    return torch.cat((place, behind.expand(place.shape[0], -1)), dim=1)


@dataclass
class Step:
    """One forward over new tokens behind a cache of fixed length.

    Attributes:
        note: of the cache.
        counted: whether the LLM or its core counts position ids on from the first layer's cache.
        tail: `[B, t]` False for padding behind the prompt; None for none.
        masks: `[B, 1, Q, S]` by the layer that a decision was made in front of, and by window.
    """

    note: Fixed
    counted: bool
    tail: Tensor | None
    masks: Mapping[tuple[int, int | None], Tensor]

    def mask(self, layer: int) -> Tensor:
        """The mask `[B, 1, Q, S]` of a layer: that of the latest decision in front of it."""
        level = max(one for one in self.note.seen if one <= layer)
        return self.masks[level, self.note.window(layer)]


def begun(note: Fixed, given: PromptCall) -> Step:
    """The step that a call of the core asks for.

    Raises:
        UnsupportedCallError: a mask of the caller's own for each layer, or one of another length.
    """
    mask, layout, tail = given.mask, note.layout, None
    if layout is not None and mask is not None and not note.generated:
        if not isinstance(mask, Tensor) or mask.dim() != 2 or mask.shape[1] <= layout.length:
            shape = tuple(getattr(mask, "shape", ()))
            raise UnsupportedCallError(
                f"a mask of shape {shape} behind a prompt of {layout.length} tokens, of which "
                "layers hold what the plan left.",
                where="attention mask",
                remedy="Give the mask [batch, length] of the prompt and all tokens behind it, or "
                "none.",
            )
        tail = mask[:, layout.length :].bool()
    return Step(note, given.positions is None, tail, {})
