"""What the LLM itself is called with over a shortened sequence; its layers have `flow`.

Index words (prompt place, input column, slot) are those of `level`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.lines import sent
from tokenprune.engine.llm.layout import Layout
from tokenprune.engine.llm.level import Level, take
from tokenprune.engine.llm.masks import input_mask
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.calls import LlmCall

Axes = Mapping[str, int]
"""On which axis the tokens stand in further arguments, see `MllmSpec.per_token`."""


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
    return (positions - sent(removed, positions.device)).clamp(min=0)


def shortened(layout: Layout, call: LlmCall, *, compact: bool, flat: bool, axes: Axes) -> LlmCall:
    """The LLM's call for its shortened input.

    Args:
        layout: how it is shortened.
        call: for the whole prompt.
        compact: whether survivors are renumbered.
        flat: whether attention takes `[B, T]` masks only.
        axes: see `Axes`.
    """
    if not layout.shortened:
        return call
    assert call.embeds is not None
    entry, embeds, positions = layout.entry, call.embeds, call.positions
    if positions is None:
        positions = torch.arange(embeds.shape[1], device=embeds.device)[None]
    if compact:
        positions = renumbered(positions, entry.ahead, entry.place)
    else:
        positions = take(positions, entry.place, axis=-1)
    return replace(
        call,
        embeds=take(embeds, entry.place),
        mask=input_mask(call.mask, entry, layout.length, flat=flat),
        positions=positions,
        per_token=taken(call.per_token, entry.place, axes),
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
    entry, new = layout.entry, call.embeds.shape[1]
    seen, positions = layout.lack + past, call.positions
    if positions is None:  # the LLM would count on from the length of its short cache
        positions = torch.arange(seen, seen + new, device=call.embeds.device)[None]
    if compact:
        positions = renumbered(positions, entry.removed)
    mask = call.mask
    if layout.shortened and (mask is None or getattr(mask, "ndim", 0) == 2):
        mask = _mask_with_tail(entry, mask, layout.length, past + new, where)
    return replace(call, positions=positions, mask=mask)


def _mask_with_tail(entry: Level, mask: Any, length: int, total: int, where: str) -> Tensor | None:
    """The padding mask of a shortened prompt and the tokens behind it, `[B, total]`."""
    tail = total - entry.length
    if mask is None:
        if not entry.padded:
            return None
        return torch.cat((entry.valid, entry.valid.new_ones(entry.valid.shape[0], tail)), 1).long()
    shape = tuple(getattr(mask, "shape", ()))
    if shape != (entry.valid.shape[0], length + tail):
        raise UnsupportedCallError(
            f"a mask of shape {shape} behind a cache of {length} tokens in "
            f"{entry.valid.shape[0]} rows.",
            where=where,
            remedy=f"Give the mask of all {length + tail} tokens.",
        )
    return torch.cat((entry.valid.to(mask), mask[:, length:]), dim=1)
