"""Attention masks of a shortened sequence, cut from the mask of the longer one.

No mask is built anew where there was one, so what a family lets its tokens see (both ways within an
image, a window counted in the prompt's own places) stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.llm.level import Level
from tokenprune.errors import UnsupportedCallError
from tokenprune.errors.words import indefinite
from tokenprune.interface.calls import Mask


def input_mask(mask: Any, level: Level, length: int, *, flat: bool) -> Mask:
    """The LLM's mask for its shortened input.

    Args:
        mask: as the LLM was called, for the whole prompt; see `Mask`.
        level: the shortened input.
        length: tokens of the whole prompt.
        flat: whether the attention takes `[B, T]` masks only.

    Returns:
        A mask of the same kind, but never None: the LLM would take gaps between position ids for
        borders of packed sequences.

    Raises:
        UnsupportedCallError: a mask of another kind.
    """

    def cut(one: Any) -> Tensor | None:
        if isinstance(one, Tensor) and one.shape[-1] != length:
            raise UnsupportedCallError(
                f"a mask of shape {tuple(one.shape)} for a prompt of {length} tokens, as for a "
                "static cache, can't be shortened.",
                remedy="Use a dynamic cache and a mask [batch, length].",
            )
        place, valid, padded = level.place, level.valid, level.padded
        return narrow(one, place, valid, padded=padded, queries=place, flat=flat)

    if isinstance(mask, Mapping):
        return {kind: cut(one) for kind, one in mask.items()}
    if mask is None or getattr(mask, "ndim", 0) == 2:
        return level.valid.long()
    return cut(mask)


def narrow(
    mask: Any, columns: Tensor, valid: Tensor, *, padded: bool, queries: Tensor | None, flat: bool
) -> Tensor | None:
    """The mask of fewer keys, and of fewer queries in a prefill.

    Args:
        mask: mask of the LLM's input: None, `[B, T]`, or `[B, 1, Q, T]` bool or additive.
        columns: `[B, K]` input columns that go on.
        valid: `[B, K]` False for dummies.
        padded: whether `valid` has a False.
        queries: `[B, q]` which queries go on in a prefill, whose own keys are the last q; None
            behind a cache, where all do, and none of them is a dummy.
        flat: whether the attention takes `[B, T]` masks only.

    Returns:
        A mask of the same kind; None where plain causal attention is right.

    Raises:
        UnsupportedCallError: a mask of another kind.
    """
    if mask is not None and (not isinstance(mask, Tensor) or mask.dim() not in (2, 4)):
        raise UnsupportedCallError(
            f"{indefinite(type(mask).__name__)} as attention mask can't be shortened.",
            remedy="Use the attention implementation sdpa, eager or flash_attention.",
        )
    if mask is None:
        return (
            _fresh(valid, None if queries is None else queries.shape[1], flat) if padded else None
        )
    columns, valid = columns.to(mask.device), valid.to(mask.device)
    if mask.dim() == 2:
        return mask.expand(columns.shape[0], -1).gather(1, columns) * valid.to(mask.dtype)
    mask = mask.expand(columns.shape[0], -1, -1, -1)
    if queries is not None:
        rows = queries.to(mask.device)[:, None, :, None]
        mask = mask.gather(2, rows.expand(-1, mask.shape[1], -1, mask.shape[3]))
    picked = columns[:, None, None, :].expand(-1, mask.shape[1], mask.shape[2], -1)
    mask = mask.gather(3, picked)
    return _hide(mask, valid, own=queries is not None) if padded else mask


def behind(place: Tensor, valid: Tensor, queries: int, window: int | None, like: Any) -> Tensor:
    """The mask of new tokens behind a cache, `[B, 1, Q, K]`; the last Q keys are the queries' own.

    What stands behind the prompt is text, so nothing but causality, padding and the window counts.

    Args:
        place: `[B, K]` prompt places of the keys.
        valid: `[B, K]` False for dummies and padding.
        queries: Q, how many tokens are new.
        window: a query sees keys nearer than this only; None for all.
        like: a mask whose type is wanted; bool if it is none.
    """
    now = place[:, -queries:, None]
    seen = (place[:, None, :] <= now) & valid[:, None, :]
    if window is not None:
        seen = seen & (place[:, None, :] > now - window)
    seen = seen[:, None]
    return as_mask(seen, like.dtype if isinstance(like, Tensor) else torch.bool)


def as_mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What queries see, bool, as a mask of a type: bool, or one that is added to logits."""
    if dtype == torch.bool:
        return seen
    visible, blocked = _extremes(dtype)
    mask = torch.full(seen.shape, visible, dtype=dtype, device=seen.device)
    return mask.masked_fill(~seen, blocked)


def _extremes(dtype: torch.dtype) -> tuple[bool | float, bool | float]:
    """What a mask of a type says of a key that is seen, and of one that is not."""
    return (True, False) if dtype == torch.bool else (0.0, torch.finfo(dtype).min)


def within(place: Tensor, valid: Tensor, queries: int, window: int | None, like: Any) -> Tensor:
    """The mask of a shortened prompt in an LLM that sees one way, `[B, 1, Q, K]`.

    Args:
        place: `[B, K]` prompt places of what is left, behind those of a cache's keys.
        valid: `[B, K]` False for dummies and padding, which see themselves alone.
        queries: Q, how many tokens the prompt has left; their own keys are the last ones.
        window: see `behind`.
        like: see `behind`.
    """
    mask = behind(place, valid, queries, window, like)
    own = _own(queries, place.shape[1], mask.device)
    return mask.masked_fill(own & ~valid[:, None, -queries:, None], _extremes(mask.dtype)[0])


def seen_by(mask: Any) -> Tensor | None:
    """Which keys the queries of a layer see in a prefill.

    Args:
        mask: the layer's: None, `[B, T]`, or `[B or 1, 1, T, T]` bool or additive.

    Returns:
        `[B or 1, T, T]` bool; None for causal attention, whatever is padding.

    Raises:
        UnsupportedCallError: a mask of another kind, or one for each head.
    """
    if mask is None or (isinstance(mask, Tensor) and mask.dim() == 2):
        return None
    if not isinstance(mask, Tensor) or mask.dim() != 4 or mask.shape[1] != 1:
        shape = f" {tuple(mask.shape)}" if isinstance(mask, Tensor) else ""
        raise UnsupportedCallError(
            f"{indefinite(type(mask).__name__)}{shape} as mask doesn't say what queries see.",
            remedy="Use the attention implementation sdpa, eager or flash_attention.",
        )
    seen: Tensor = mask[:, 0]
    return seen if seen.dtype == torch.bool else seen > torch.finfo(seen.dtype).min / 2


def hide_behind(mask: Any, gone: Tensor, valid: Tensor, *, tail: int, flat: bool) -> Tensor:
    """A prefill's mask that hides some keys from its last queries, as a trimmed cache would.

    Args:
        mask: None, or `[B, 1, T, T]` bool or additive.
        gone: `[B, T]` keys to hide.
        valid: `[B, T]` False for padding.
        tail: how many queries they are hidden from.
        flat: whether the attention takes `[B, T]` masks only.

    Raises:
        UnsupportedCallError: the attention can't hide keys from single queries.
    """
    if flat or (mask is not None and mask.dim() != 4):
        raise UnsupportedCallError(
            "generating without a KV cache hides trimmed tokens by a mask, which FlashAttention "
            "doesn't take.",
            where="KV cache",
            remedy="Generate with a KV cache, or let the strategy leave caches as they are.",
        )
    mask = _fresh(valid, valid.shape[1], flat=False) if mask is None else mask
    late = torch.arange(valid.shape[1], device=mask.device) >= valid.shape[1] - tail
    hidden = (late[:, None] & gone.to(mask.device)[:, None, :])[:, None]
    every: Tensor = mask.expand(len(gone), -1, -1, -1)
    return every.masked_fill(hidden, _extremes(mask.dtype)[1])


def _fresh(valid: Tensor, queries: int | None, flat: bool) -> Tensor:
    """A causal mask of the last `queries` tokens; None for one that is no dummy."""
    if flat:
        return valid.long()
    batch, count = valid.shape
    last = 1 if queries is None else queries
    mask = torch.ones(batch, 1, last, count, dtype=torch.bool, device=valid.device)
    return _hide(mask.tril(count - last), valid, own=queries is not None)


def _hide(mask: Tensor, valid: Tensor, *, own: bool) -> Tensor:
    """Hide dummies from everyone.

    Args:
        mask: `[B, 1, Q, K]`.
        valid: `[B, K]` False for dummies.
        own: whether there may be dummies among the queries, which are the last tokens: these see
            themselves, since an empty softmax row is NaN.
    """
    hidden = ~valid[:, None, None, :]
    visible, blocked = _extremes(mask.dtype)
    mask = mask.masked_fill(hidden, blocked)
    if own:
        itself = _own(mask.shape[-2], mask.shape[-1], mask.device)
        mask = mask.masked_fill(itself & hidden, visible)
    return mask


def _own(queries: int, keys: int, device: torch.device) -> Tensor:
    """`[Q, K]` True where a key is the query's own, if the queries are the last tokens."""
    if queries == keys:
        return torch.eye(keys, dtype=torch.bool, device=device)
    places = torch.arange(keys, device=device)
    return places == places[keys - queries :, None]
