"""Attention that tokens receive and give, without a matrix of all pairs leaving the operation."""

from typing import Any

import torch
from torch import Tensor

from tokenprune.ops.checks import require, require_heads, require_rows
from tokenprune.ops.registering import operation


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
    (received,) = _checked(query, key, bias, scale, skip, given=False)
    return received


def attention_margins(
    query: Tensor,
    key: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    skip: int = 0,
) -> tuple[Tensor, Tensor]:
    """Both means of the same weights: `attention_received`, and what each token gives.

    A row of the softmax sums to 1, so a token gives the others what it doesn't give to the tokens
    that are left out.

    Args:
        query: `[B, H, T, d]`.
        key: `[B, H, T, d]`; fewer heads are allowed if their number divides H.
        bias: `[B, T]`, added to the logits of each key; -inf hides a key.
        scale: factor on the logits; default `d ** -0.5`.
        skip: number of leading tokens to leave out.

    Returns:
        The column means and the row means, float32 `[B, T - skip]` each. They carry no gradient.

    Raises:
        ValueError: the shapes don't fit.
    """
    received, given = _checked(query, key, bias, scale, skip, given=True)
    return received, given


def _checked(
    query: Tensor, key: Tensor, bias: Tensor | None, scale: float | None, skip: int, *, given: bool
) -> list[Tensor]:
    batch, _, length, width = query.shape
    require_heads(query, key)
    require(key.shape[2] == length, "query and key must have the same number of tokens")
    require(0 <= skip < length, "skip must be in 0..{}, not {}", length - 1, skip)
    require_rows("bias", bias, batch, length)
    factor = width**-0.5 if scale is None else scale
    out: list[Tensor] = attention_received_op(query, key, bias, factor, skip, given)
    return out


def _flops(query: torch.Size, key: torch.Size, *_: Any, **__: Any) -> int:
    batch, heads, length, width = query
    return 2 * batch * heads * length * length * width


@operation("attention_received", flops=_flops)
def attention_received_op(
    query: Tensor, key: Tensor, bias: Tensor | None, scale: float, skip: int, given: bool
) -> list[Tensor]:
    """The registered operation, declared by its answer, with the row means if `given`."""
    shape = (query.shape[0], query.shape[2] - skip)
    return [query.new_empty(shape, dtype=torch.float32) for _ in range(2 if given else 1)]
