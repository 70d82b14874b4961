"""What the softmax rows of an LLM layer come to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_QUERIES = 64
"""Queries at a time: never more than [B, H, 64, T] weights stand in memory."""


@dataclass(frozen=True)
class Received:
    """What every token gets from some of the queries.

    Attributes:
        most: `[B, T]` float32, largest softmax weight over heads and queries.
        total: `[B, T]` float32, sum over queries of the weights' mean over heads.
        able: `[B, T]` how many of the queries may see the token.
    """

    most: Tensor
    total: Tensor
    able: Tensor


def visible(slots: Tensor, valid: Tensor, mask: Tensor | None) -> Tensor:
    """Which keys some queries of an LLM layer see, `[B, R, T]`.

    Padding may see nothing; it is told to see everything, or its softmax were NaN.

    Args:
        slots: `[B, R]` slots of the queries.
        valid: `[B, T]` False for padding.
        mask: `[B or 1, T, T]` True where a query sees a key; None for causal attention.
    """
    count = valid.shape[1]
    if mask is None:
        seen = torch.arange(count, device=slots.device) <= slots[..., None]
    else:
        mask = mask.to(slots.device).expand(len(slots), -1, -1)
        seen = mask.gather(1, slots[..., None].expand(-1, -1, count))
    seen = seen & valid.to(slots.device)[:, None]
    return seen | ~seen.any(dim=-1, keepdim=True)


def received(asking: Tensor, rows: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Received:
    """What every token gets from the queries that ask; memory grows with T, not with T squared.

    Args:
        asking: `[B, T]` True for the queries to read, at least one a row.
        rows: of slots `[B, R]` the softmax rows `[B, H, R, T]`, and what they see `[B, R, T]`.
    """
    # slots of the queries to read, those of a sample with fewer of them filled up by others
    first = torch.sort((~asking).to(torch.int8), dim=1, stable=True).indices
    first = first[:, : int(asking.sum(dim=1).max())]
    most = torch.zeros(asking.shape, device=asking.device)
    total, able = torch.zeros_like(most), torch.zeros_like(asking, dtype=torch.long)
    for some in torch.split(first, _QUERIES, dim=1):
        real = asking.gather(1, some)
        weights, seen = rows(some)
        weights = weights.masked_fill(~real[:, None, :, None], 0)
        most = torch.maximum(most, weights.amax(dim=(1, 2)))
        total = total + weights.mean(dim=1).sum(dim=1)
        able = able + (seen & real[..., None]).sum(dim=1)
    return Received(most, total, able)
