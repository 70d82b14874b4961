"""The attention row of the last prompt token, computed beside the layer's own attention."""

from __future__ import annotations

import torch
from torch import Tensor


def last_query_attention(query: Tensor, key: Tensor, column: Tensor, valid: Tensor) -> Tensor:
    """Head mean of one softmax row of every sample, `[B, T]` float32.

    Args:
        query: `[B, H, T, d]`, rotated.
        key: `[B, H_kv, T, d]`, rotated; H is a multiple of H_kv.
        column: `[B]` column of the query in each sample.
        valid: `[B, T]` False for padding.
    """
    batch, heads, count, width = query.shape
    column, valid = column.to(query.device), valid.to(query.device)
    pick = column.view(-1, 1, 1, 1).expand(-1, heads, 1, width)
    row = query.gather(2, pick).view(batch, key.shape[1], -1, width).float()
    logits = row @ key.float().transpose(-1, -2) * width**-0.5
    seen = valid & (torch.arange(count, device=query.device) <= column[:, None])
    logits = logits.masked_fill(~seen[:, None, None, :], float("-inf"))
    attention: Tensor = logits.softmax(dim=-1).mean(dim=(1, 2))
    return attention


def query_places(valid: Tensor, visual: Tensor, labels: Tensor | None) -> Tensor:
    """Place of the last prompt token of every row, `[B]`.

    Without labels the last token of the row. With labels (training) the token before the first
    labelled one behind the images, so that no answer token takes part in the choice (ours).

    Args:
        valid: `[B, T]` False for padding.
        visual: `[B, T]` True for placeholders.
        labels: `[B, T]` with -100 for tokens without label, or None.
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
    """Last True of every row of `[B, T]`, `[B]`; -1 for none."""
    places = torch.arange(marked.shape[1], device=marked.device).expand(marked.shape)
    return places.masked_fill(~marked, -1).amax(dim=1)
