"""Softmax rows of some queries of an LLM layer, which is causal and may have padding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.ops import attention_rows

_QUERIES = 64
"""Queries at a time: never more than [B, H, 64, T] weights stand in memory."""


@dataclass(frozen=True)
class Received:
    """What every token gets from some of the queries.

    Attributes:
        most: `[B, T]` float32, largest softmax weight over heads and queries.
        total: `[B, T]` float32, sum over queries of the weights' mean over heads.
    """

    most: Tensor
    total: Tensor


def last_row(query: Tensor, key: Tensor, slot: Tensor, valid: Tensor) -> Tensor:
    """Head mean of one softmax row of every sample, `[B, T]` float32.

    Args:
        query: `[B, H, T, d]`.
        key: `[B, H_kv, T, d]`; H is a multiple of H_kv.
        slot: `[B]` slot of the query in each sample.
        valid: `[B, T]` False for padding.
    """
    slot, valid = slot.to(query.device), valid.to(query.device)
    pick = slot.view(-1, 1, 1, 1).expand(-1, query.shape[1], 1, query.shape[3])
    seen = valid & (torch.arange(query.shape[2], device=query.device) <= slot[:, None])
    weights = attention_rows(query.gather(2, pick), key, seen=seen[:, None])
    return weights.mean(dim=1)[:, 0]


def received(query: Tensor, key: Tensor, asking: Tensor, valid: Tensor) -> Received:
    """What every token gets from the queries that ask; memory grows with T, not with T squared.

    Args:
        query: `[B, H, T, d]`.
        key: `[B, H_kv, T, d]`; H is a multiple of H_kv.
        asking: `[B, T]` True for the queries to read, at least one a row.
        valid: `[B, T]` False for padding.
    """
    batch, heads, count, width = query.shape
    asking, valid = asking.to(query.device), valid.to(query.device)
    places = torch.arange(count, device=query.device)
    # slots of the queries to read, those of a sample with fewer of them filled up by others
    first = torch.sort((~asking).to(torch.int8), dim=1, stable=True).indices
    first = first[:, : int(asking.sum(dim=1).max())]
    most = torch.zeros(batch, count, device=query.device)
    total = torch.zeros_like(most)
    for some in torch.split(first, _QUERIES, dim=1):
        real = asking.gather(1, some)
        pick = some[:, None, :, None].expand(-1, heads, -1, width)
        # a row that only fills up sees everything, or its softmax were NaN, and counts nothing
        seen = (valid[:, None, :] & (places <= some[..., None])) | ~real[..., None]
        weights = attention_rows(query.gather(2, pick), key, seen=seen)
        weights = weights.masked_fill(~real[:, None, :, None], 0)
        most = torch.maximum(most, weights.amax(dim=(1, 2)))
        total = total + weights.mean(dim=1).sum(dim=1)
    return Received(most, total)
