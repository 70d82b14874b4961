"""What the last token and the text behind the images look at, beside a layer's attention."""

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
    slots = torch.arange(count, device=query.device)
    # the asking slots of every row first, in order; rows with fewer of them are filled up with
    # others, which see everything (an empty softmax row is NaN) and count for nothing
    first = torch.sort((~asking).to(torch.int8), dim=1, stable=True).indices
    first = first[:, : int(asking.sum(dim=1).max())]
    best = torch.zeros(batch, count, device=query.device)
    total = torch.zeros_like(best)
    for slot in torch.split(first, _QUERIES, dim=1):
        real = asking.gather(1, slot)
        pick = slot[:, None, :, None].expand(-1, heads, -1, width)
        rows = query.gather(2, pick).float()
        rows = rows.view(batch, key.shape[1], -1, *rows.shape[2:])
        seen = (valid[:, None, :] & (slots <= slot[..., None])) | ~real[..., None]
        logits = (rows @ keys * width**-0.5).masked_fill(~seen[:, None, None], float("-inf"))
        weights = logits.softmax(dim=-1).masked_fill(~real[:, None, None, :, None], 0)
        best = torch.maximum(best, weights.amax(dim=(1, 2, 3)))
        total = total + weights.mean(dim=(1, 2)).sum(dim=1)
    return best, total


def last_query_attention(query: Tensor, key: Tensor, slot: Tensor, valid: Tensor) -> Tensor:
    """Head mean of one softmax row of every sample, `[B, T]` float32.

    Args:
        query: `[B, H, T, d]`, rotated.
        key: `[B, H_kv, T, d]`, rotated; H is a multiple of H_kv.
        slot: `[B]` slot of the query in each sample.
        valid: `[B, T]` by slot, False for padding.
    """
    batch, heads, count, width = query.shape
    slot, valid = slot.to(query.device), valid.to(query.device)
    pick = slot.view(-1, 1, 1, 1).expand(-1, heads, 1, width)
    row = query.gather(2, pick).view(batch, key.shape[1], -1, width).float()
    logits = row @ key.float().transpose(-1, -2) * width**-0.5
    seen = valid & (torch.arange(count, device=query.device) <= slot[:, None])
    logits = logits.masked_fill(~seen[:, None, None, :], float("-inf"))
    attention: Tensor = logits.softmax(dim=-1).mean(dim=(1, 2))
    return attention


def query_places(valid: Tensor, visual: Tensor, labels: Tensor | None) -> Tensor:
    """Prompt place of the last prompt token of every row, `[B]`.

    Without labels the last token of the row. With labels (training) the token before the first
    labelled one behind the images, so that no answer token takes part in the choice (ours).

    Args:
        valid: `[B, L]` False for padding.
        visual: `[B, L]` True for placeholders.
        labels: `[B, L]` with -100 for tokens without label, or None.
    """
    places = torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)
    last = last_place(valid)
    if labels is None:
        return last
    behind = places > last_place(visual)[:, None]
    answer = valid & behind & (labels.to(valid.device) != -100)
    first = places.masked_fill(~answer, valid.shape[1]).amin(dim=1)
    return torch.where(answer.any(dim=1), (first - 1).clamp(min=0), last)


def last_place(marked: Tensor) -> Tensor:
    """Prompt place of the last True of every row of `[B, L]`, `[B]`; -1 for none."""
    places = torch.arange(marked.shape[1], device=marked.device).expand(marked.shape)
    return places.masked_fill(~marked, -1).amax(dim=1)
