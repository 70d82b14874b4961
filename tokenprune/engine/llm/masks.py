"""Attention masks of a shortened sequence, from the mask of the LLM's input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenprune.errors import UnsupportedCallError


def narrow(
    mask: Any, columns: Tensor, valid: Tensor, *, padded: bool, square: bool, flat: bool
) -> Tensor | None:
    """The mask of fewer keys, and of fewer queries in a prefill.

    Args:
        mask: mask of the LLM's input: None, `[B, T]`, or `[B, 1, Q, T]` bool or additive.
        columns: `[B, K]` columns that go on.
        valid: `[B, K]` False for dummies.
        padded: whether `valid` has a False.
        square: whether queries are the same tokens as the keys (prefill).
        flat: whether the attention takes `[B, T]` masks only.

    Returns:
        A mask of the same kind; None where plain causal attention is right.

    Raises:
        UnsupportedCallError: a mask of another kind.
    """
    if mask is not None and (not isinstance(mask, Tensor) or mask.dim() not in (2, 4)):
        raise UnsupportedCallError(
            f"a {type(mask).__name__} as attention mask can't be shortened.",
            remedy="Use the attention implementation sdpa, eager or flash_attention.",
        )
    if mask is None:
        return _fresh(valid, square, flat) if padded else None
    columns, valid = columns.to(mask.device), valid.to(mask.device)
    if mask.dim() == 2:
        return mask.expand(columns.shape[0], -1).gather(1, columns) * valid.to(mask.dtype)
    mask = mask.expand(columns.shape[0], -1, -1, -1)
    if square:
        rows = columns[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3])
        mask = mask.gather(2, rows)
    picked = columns[:, None, None, :].expand(-1, mask.shape[1], mask.shape[2], -1)
    mask = mask.gather(3, picked)
    return _hide(mask, valid, square) if padded else mask


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
            "generating without a cache hides trimmed tokens by a mask, which FlashAttention "
            "doesn't take.",
            where="use_cache",
            remedy="Generate with use_cache=True, or let the strategy leave caches as they are.",
        )
    mask = _fresh(valid, square=True, flat=False) if mask is None else mask
    late = torch.arange(valid.shape[1], device=mask.device) >= valid.shape[1] - tail
    hidden = (late[:, None] & gone.to(mask.device)[:, None, :])[:, None]
    blocked: bool | float = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    seen: Tensor = mask.expand(len(gone), -1, -1, -1).masked_fill(hidden, blocked)
    return seen


def _fresh(valid: Tensor, square: bool, flat: bool) -> Tensor:
    if flat:
        return valid.long()
    batch, count = valid.shape
    queries = count if square else 1
    mask = torch.ones(batch, 1, queries, count, dtype=torch.bool, device=valid.device)
    return _hide(mask.tril() if square else mask, valid, square)


def _hide(mask: Tensor, valid: Tensor, square: bool) -> Tensor:
    """Hide dummies from everyone; they see themselves, since an empty softmax row is NaN."""
    hidden = ~valid[:, None, None, :]
    visible: bool | float = True
    blocked: bool | float = False
    if mask.dtype != torch.bool:
        visible, blocked = 0.0, torch.finfo(mask.dtype).min
    mask = mask.masked_fill(hidden, blocked)
    if square:
        own = torch.eye(valid.shape[1], dtype=torch.bool, device=mask.device)
        mask = mask.masked_fill(own & hidden, visible)
    return mask
