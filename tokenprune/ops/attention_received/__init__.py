"""Attention that tokens receive, without a matrix of all pairs leaving the operation."""

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op
from torch.utils.flop_counter import register_flop_formula

from tokenprune.ops.checks import require, require_rows
from tokenprune.ops.dispatch import run


def attention_received(
    query: Tensor,
    key: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    skip: int = 0,
) -> Tensor:
    """Mean attention weight each token receives: the column mean of `softmax(q k^T)`.

    The softmax runs over all T keys. Rows and columns of the first `skip` tokens (CLS, registers)
    are then left out and nothing is normalised again, so the result sums to at most 1.

    Args:
        query: `[B, H, T, d]`.
        key: `[B, H, T, d]`; fewer heads are allowed if their number divides H.
        bias: `[B, T]`, added to the logits of each key, for example the log of token sizes; -inf
            hides a key.
        scale: factor on the logits; default `d ** -0.5`.
        skip: number of leading tokens to leave out.

    Returns:
        float32 `[B, T - skip]`. Carries no gradient.

    Raises:
        ValueError: the shapes don't fit.

    Source: the importance of EvoPrune (arXiv 2603.03681, section 3.4), read as a column mean.
    """
    batch, _, length, width = query.shape
    _check_heads(query, key)
    require(key.shape[2] == length, "query and key must have the same number of tokens")
    require(0 <= skip < length, f"skip must be in 0..{length - 1}, not {skip}")
    require_rows("bias", bias, batch, length)
    factor = width**-0.5 if scale is None else scale
    received: Tensor = attention_received_op(query, key, bias, factor, skip)
    return received


def attention_row(
    query: Tensor,
    key: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    row: int = 0,
) -> Tensor:
    """Attention weights of one query over all keys, averaged over heads.

    Args:
        query: `[B, H, Tq, d]`.
        key: `[B, H, T, d]`; fewer heads are allowed if their number divides H.
        bias: `[B, T]`, added to the logits of each key; -inf hides a key.
        scale: factor on the logits; default `d ** -0.5`.
        row: the query: 0 for CLS, -1 for the last token.

    Returns:
        float32 `[B, T]`, each row summing to 1.

    Raises:
        ValueError: the shapes don't fit.
    """
    batch, heads, rows, width = query.shape
    _check_heads(query, key)
    require(-rows <= row < rows, f"row must be in {-rows}..{rows - 1}, not {row}")
    require_rows("bias", bias, batch, key.shape[2])
    factor = width**-0.5 if scale is None else scale
    with torch.autocast(query.device.type, enabled=False):
        grouped = query[:, :, row].float().reshape(batch, key.shape[1], -1, width)
        logits = (grouped * factor) @ key.float().mT
    if bias is not None:
        logits = logits + bias.float().clamp(min=-1e30)[:, None, None]
    return logits.softmax(-1).reshape(batch, heads, -1).mean(1)


def _check_heads(query: Tensor, key: Tensor) -> None:
    require(
        key.shape[0] == query.shape[0]
        and key.shape[3] == query.shape[3]
        and query.shape[1] % key.shape[1] == 0,
        f"query {tuple(query.shape)} and key {tuple(key.shape)} don't fit together",
    )


@custom_op("tokenprune::attention_received", mutates_args=())
def attention_received_op(
    query: Tensor, key: Tensor, bias: Tensor | None, scale: float, skip: int
) -> Tensor:
    """The registered operation; `attention_received` checks its arguments."""
    out: Tensor = run("attention_received", query, key, bias, scale, skip)
    return out


@attention_received_op.register_fake
def _fake(query: Tensor, key: Tensor, bias: Tensor | None, scale: float, skip: int) -> Tensor:
    shape = (query.shape[0], query.shape[2] - skip)
    return query.new_empty(shape, dtype=torch.float32)


@register_flop_formula(torch.ops.tokenprune.attention_received)
def _flops(query: torch.Size, key: torch.Size, *_: Any, **__: Any) -> int:
    batch, heads, length, width = query
    return 2 * batch * heads * length * length * width
