"""Encoder signals from the queries and keys of one block, computed beside its attention."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from tokenprune.ops import attention_received, attention_row
from tokenprune.tokens import Signal


def encoder_signals(
    wanted: Iterable[Signal], query: Tensor, key: Tensor, bias: Tensor | None, prefix: int
) -> dict[str, Tensor]:
    """Signals by name.

    Args:
        wanted: what to compute; names that don't come from attention are left out.
        query: `[B, H, P + N, d]`.
        key: `[B, H, P + N, d]`.
        bias: `[B, P + N]` added to key logits, or None.
        prefix: P, tokens in front of the patches.

    Returns:
        `[B, N]` float32 each, keys `[B, N, d]`.
    """
    found = {}
    for signal in wanted:
        value = _signal(signal.kind, query, key, bias, prefix)
        if value is not None:
            found[signal.name] = value
    return found


def _signal(
    signal: Signal, query: Tensor, key: Tensor, bias: Tensor | None, prefix: int
) -> Tensor | None:
    scale = float(query.shape[-1] ** -0.5)
    if signal == Signal.ATTENTION_RECEIVED:
        return attention_received(query, key, bias=bias, skip=prefix)
    if signal == Signal.ATTENTION_GIVEN:
        return attention_given(query, key, bias, prefix)
    if signal == Signal.CLS_ATTENTION:
        return attention_row(query, key, bias=bias, row=0)[:, prefix:]
    if signal == Signal.KEYS:
        return key[:, :, prefix:].mean(dim=1)
    patches_q, patches_k = query[:, :, prefix:].float(), key[:, :, prefix:].float()
    if signal == Signal.LOGITS_RECEIVED:  # the mean over queries of q.k is mean(q).k
        mean_query = patches_q.mean(dim=2, keepdim=True)
        return (patches_k * mean_query).sum(-1).mean(dim=1) * scale
    if signal == Signal.LOGITS_GIVEN:
        mean_key = patches_k.mean(dim=2, keepdim=True)
        return (patches_q * mean_key).sum(-1).mean(dim=1) * scale
    return None


def attention_given(query: Tensor, key: Tensor, bias: Tensor | None, prefix: int) -> Tensor:
    """Row mean of softmax(q k^T) over patch keys, `[B, N]`: (1 - weight on the prefix) / N.

    A softmax row sums to one, so only the prefix columns have to be looked at.
    """
    count = query.shape[2] - prefix
    if prefix == 0:
        return query.new_full((query.shape[0], count), 1.0 / count).float()
    heads = range(query.shape[1])  # a head at a time, so that no [B, H, T, T] exists
    shares = torch.stack([_prefix_share(query[:, h], key[:, h], bias, prefix) for h in heads])
    return (1.0 - shares.mean(dim=0)) / count


def _prefix_share(query: Tensor, key: Tensor, bias: Tensor | None, prefix: int) -> Tensor:
    logits = query.float() @ key.float().transpose(-1, -2) * float(query.shape[-1] ** -0.5)
    if bias is not None:
        logits = logits + bias[:, None, :].float()
    return logits.softmax(-1)[:, prefix:, :prefix].sum(-1)
