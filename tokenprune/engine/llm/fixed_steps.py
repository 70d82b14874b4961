"""Run an LLM and its layers over new tokens of text behind a cache of fixed length.

Nothing here reads a value of the device, so that a step can be one graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from tokenprune.engine.llm.calls import renumbered
from tokenprune.engine.llm.fixed import Step
from tokenprune.engine.llm.layout import Layout
from tokenprune.engine.llm.masks import as_mask
from tokenprune.engine.llm.refusals import check_counted
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.calls import Arguments, LayerCall, LlmCall
from tokenprune.interface.specs import MllmSpec
from tokenprune.plan import Numbering


class FixedSteps:
    """Steps of one model.

    Args:
        adapter: the model's family.
        spec: the model as data.
        numbering: of what stages leave.
    """

    def __init__(self, adapter: MllmAdapter, spec: MllmSpec, numbering: Numbering) -> None:
        self.adapter, self.spec, self.numbering = adapter, spec, numbering

    def run(
        self, original: Callable[..., Any], step: Step, args: tuple[Any, ...], kwargs: Arguments
    ) -> Any:
        """The LLM's own forward over the new tokens."""
        given = self.adapter.read_llm(args, kwargs)
        check_counted(self.spec, given)
        put, named = self.adapter.write_llm(self._llm_call(step, given), args, kwargs)
        with self.adapter.heeding(given.cache):
            return original(*put, **named)

    def run_layer(
        self,
        original: Callable[..., Any],
        number: int,
        step: Step,
        args: tuple[Any, ...],
        kwargs: Arguments,
    ) -> Any:
        """A layer's own forward over the new tokens."""
        layer = self.spec.layers[number]
        given = self.adapter.read_layer(layer, args, kwargs)
        new = self._layer_call(step, number, given)
        if new is not given:
            args, kwargs = self.adapter.write_layer(layer, new, args, kwargs)
        return original(*args, **kwargs)

    def _llm_call(self, step: Step, given: LlmCall) -> LlmCall:
        """The LLM's call for new tokens; it also makes the masks of the step."""
        note, layout = step.note, step.note.layout
        if layout is None:
            return given
        assert given.embeds is not None
        queries, device = given.embeds.shape[1], given.embeds.device
        new = torch.arange(queries, device=device)
        held = self.adapter.held(given.cache, layout.base, queries)
        if step.tail is not None and not is_compiling():
            _check_length(step.tail, layout, int(held) + queries)
        step.masks = self._masks(step, given.cache, new)
        positions = given.positions
        if positions is None:
            positions = (held + note.lack + new)[None]
        elif step.counted:
            positions = positions + note.lack
        if self.numbering.compact_entry:
            positions = renumbered(positions, layout.entry.removed)
        return replace(given, positions=positions, mask=step.mask(layout.base))

    def _masks(self, step: Step, cache: Any, new: Tensor) -> dict[tuple[int, int | None], Tensor]:
        """The masks of a step over new tokens of the numbers `[Q]`."""
        note, kind = step.note, self.adapter.additive_masks() or torch.bool
        assert note.layout is not None
        masks = {}
        for layer, seen in note.told(step.tail).items():
            last = self.adapter.held(cache, max(layer, note.layout.base), len(new)) + new
            slots = torch.arange(seen.shape[1], device=new.device)
            mask = seen[:, None, :] & (slots <= last[:, None])
            for window in dict.fromkeys(note.windows or (None,)):
                near = mask
                if window is not None:
                    places = note.places[layer][:, None, :]
                    near = mask & (places > places[..., last].transpose(1, 2) - window)
                masks[layer, window] = as_mask(near[:, None], kind)
        return masks

    def _layer_call(self, step: Step, number: int, given: LayerCall) -> LayerCall:
        """A layer's call for new tokens, from the LLM's call of it."""
        layout = step.note.layout
        if layout is None:
            return given
        if number in self.spec.flat_layers:
            queries = given.hidden.shape[1]
            padding = None if step.tail is None or queries == 1 else step.tail[:, -queries:]
            return replace(given, mask=padding)
        cut = layout.cut_before(number)
        if cut is None and not step.note.windows:
            return given
        rows = given.rotary
        if self.numbering.compact_layers and cut is not None:
            places = renumbered(given.positions, cut.level.removed)
            rows = self.adapter.rotary(self.spec.layers[number], given.hidden, places)
        return replace(given, mask=step.mask(number), rotary=rows)


def _check_length(tail: Tensor, layout: Layout, held: int) -> None:
    """Refuse a padding mask that isn't one of all tokens.

    Args:
        tail: what the mask says of tokens behind the prompt.
        layout: how the prompt was shortened.
        held: tokens in the first layer, those of this step included.
    """
    behind = held - layout.entry.length
    if tail.shape[1] != behind:
        raise UnsupportedCallError(
            f"a mask of {layout.length + tail.shape[1]} tokens in a step that ends with token "
            f"{layout.length + behind}.",
            where="attention mask",
            remedy="Give the mask [batch, length] of all tokens, or none.",
        )
