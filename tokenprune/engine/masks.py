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
