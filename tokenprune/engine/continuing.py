"""New tokens behind the cache of a shortened prompt: their positions and their mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.compaction import Level
from tokenprune.engine.layout import Layout
from tokenprune.errors import UnsupportedCallError


def continuation(
    layout: Layout, past: int, kwargs: Mapping[str, Any], *, compact: bool
) -> dict[str, Any]:
    """The LLM's arguments for new tokens; positions go on after the unpruned length.

    Args:
        layout: how the prompt behind the cache was shortened.
        past: tokens in the first layer's cache.
        kwargs: the call's own arguments.
        compact: whether survivors are renumbered.

    Raises:
        UnsupportedCallError: the mask given isn't that of the whole sequence.
    """
    if not (layout.shortened or compact):
        return dict(kwargs)
    embeds, base = kwargs["inputs_embeds"], layout.base
    new, seen = embeds.shape[1], layout.length + past - base.length
    position = kwargs.get("position_ids")
    if position is None:
        position = torch.arange(seen, seen + new, device=embeds.device)[None]
    if compact:
        position = (position - base.removed[:, None]).clamp(min=0)
    found = {**kwargs, "position_ids": position}
    if layout.shortened:
        mask = kwargs.get("attention_mask")
        found["attention_mask"] = _with_tail(base, mask, layout.length, past + new)
    return found


def _with_tail(base: Level, mask: Tensor | None, length: int, total: int) -> Tensor | None:
    """The padding mask of a shortened prompt and the tokens behind it, `[B, total]`."""
    tail = total - base.length
    if mask is None:
        if not base.padded:
            return None
        return torch.cat((base.valid, base.valid.new_ones(base.valid.shape[0], tail)), 1).long()
    if mask.shape != (base.valid.shape[0], length + tail):
        raise UnsupportedCallError(
            f"a mask of shape {tuple(mask.shape)} behind a cache of {length} tokens in "
            f"{base.valid.shape[0]} rows.",
            where="attention_mask",
            remedy=f"Give the mask of all {length + tail} tokens.",
        )
    return torch.cat((base.valid.to(mask), mask[:, length:]), dim=1)
