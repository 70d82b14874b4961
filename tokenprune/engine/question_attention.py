"""What the text behind the images looks at, computed beside the layer's own attention."""

from __future__ import annotations

import torch
from torch import Tensor

_QUERIES = 64
"""Queries at a time: never more than [B, H, 64, T] weights stand in memory."""


def question_attention(
    query: Tensor, key: Tensor, asking: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """Maximum and mean of the softmax weight that every token gets from some of the queries.

    The maximum is over heads and queries. The mean is over heads and over those of the queries
    that may see the token, so that tokens late in the sequence aren't taken for unimportant.

    Args:
        query: `[B, H, T, d]`, rotated.
        key: `[B, H_kv, T, d]`, rotated; H is a multiple of H_kv.
        asking: `[B, T]` True for the queries to read, at least one a row.
        valid: `[B, T]` False for padding.

    Returns:
        Two times `[B, T]` float32.
    """
    best, total = _received(query, key, asking, valid)
    able = asking.to(query.device).long().flip(1).cumsum(dim=1).flip(1)
    return best, total / able.clamp(min=1)


def prompt_attention(query: Tensor, key: Tensor, asking: Tensor, valid: Tensor) -> Tensor:
    """Mean of the softmax weight that every token gets, over heads and all of the queries.

    Args:
        query: `[B, H, T, d]`, rotated.
        key: `[B, H_kv, T, d]`, rotated; H is a multiple of H_kv.
        asking: `[B, T]` True for the queries; those in front of a token give it 0.
        valid: `[B, T]` False for padding.

    Returns:
        `[B, T]` float32, with a sum of 1 over T.
    """
    _, total = _received(query, key, asking, valid)
    return total / asking.to(total.device).sum(dim=1, keepdim=True).clamp(min=1)


def _received(query: Tensor, key: Tensor, asking: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Largest weight, and sum over queries of the head mean, that every token gets."""
    batch, heads, count, width = query.shape
    asking, valid = asking.to(query.device), valid.to(query.device)
    keys = key.float().transpose(-1, -2)[:, :, None]
    places = torch.arange(count, device=query.device)
    first = torch.sort((~asking).to(torch.int8), dim=1, stable=True).indices
    first = first[:, : int(asking.sum(dim=1).max())]
    best = torch.zeros(batch, count, device=query.device)
    total = torch.zeros_like(best)
    for column in torch.split(first, _QUERIES, dim=1):
        real = asking.gather(1, column)
        pick = column[:, None, :, None].expand(-1, heads, -1, width)
        rows = query.gather(2, pick).float()
        rows = rows.view(batch, key.shape[1], -1, *rows.shape[2:])
        seen = (valid[:, None, :] & (places <= column[..., None])) | ~real[..., None]
        logits = (rows @ keys * width**-0.5).masked_fill(~seen[:, None, None], float("-inf"))
        weights = logits.softmax(dim=-1).masked_fill(~real[:, None, None, :, None], 0)
        best = torch.maximum(best, weights.amax(dim=(1, 2, 3)))
        total = total + weights.mean(dim=(1, 2)).sum(dim=1)
    return best, total
