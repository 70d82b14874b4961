"""Attention that tokens receive and give, where each query's normaliser is known already."""

from typing import Any

import torch
from torch import Tensor

from tokenprune.ops.checks import require, require_heads, require_rows
from tokenprune.ops.registering import operation


def received_from_lse(
    query: Tensor, key: Tensor, lse: Tensor, *, bias: Tensor | None = None, skip: int = 0
) -> Tensor:
    """`attention_received`, of the logarithms that fused attention kernels leave behind.

    A bias is the same for all queries, so it is a factor of a key's sum:
    `received_j = exp(bias_j) sum_i exp(q_i k_j / sqrt(d) - lse_i) / (H (T - skip))`.

    Args:
        query: `[B, H, T, d]`.
        key: `[B, H_kv, T, d]`; fewer heads are allowed if their number divides H.
        lse: `[B, H, T]`, `log sum_j exp(q_i k_j / sqrt(d) + bias_j)`.
        bias: `[B, T]`, as in `lse`; -inf hides a key.
        skip: number of leading tokens to leave out.

    Returns:
        float32 `[B, T - skip]`. Carries no gradient.

    Raises:
        ValueError: the shapes don't fit.
    """
    (received,) = _checked(query, key, lse, bias, skip, given=False)
    return received


def margins_from_lse(
    query: Tensor, key: Tensor, lse: Tensor, *, bias: Tensor | None = None, skip: int = 0
) -> tuple[Tensor, Tensor]:
    """`attention_margins` of such logarithms: `received_from_lse`, and what each token gives.

    That is what it doesn't give to the tokens that are left out, which are few.

    Args:
        query: `[B, H, T, d]`.
        key: `[B, H_kv, T, d]`; fewer heads are allowed if their number divides H.
        lse: `[B, H, T]`, `log sum_j exp(q_i k_j / sqrt(d) + bias_j)`.
        bias: `[B, T]`, as in `lse`; -inf hides a key.
        skip: number of leading tokens to leave out.

    Returns:
        The column means and the row means, float32 `[B, T - skip]` each. They carry no gradient.

    Raises:
        ValueError: the shapes don't fit.
    """
    received, given = _checked(query, key, lse, bias, skip, given=True)
    return received, given


def _checked(
    query: Tensor, key: Tensor, lse: Tensor, bias: Tensor | None, skip: int, *, given: bool
) -> list[Tensor]:
    batch, heads, length, _ = query.shape
    require_heads(query, key)
    require(key.shape[2] == length, "query and key must have the same number of tokens")
    shape = tuple(lse.shape)
    require(shape == (batch, heads, length), "lse must be [B, H, T], not {}", shape)
    require(0 <= skip < length, "skip must be in 0..{}, not {}", length - 1, skip)
    require_rows("bias", bias, batch, length)
    out: list[Tensor] = received_from_lse_op(query, key, lse, bias, skip, given)
    return out


def _flops(query: torch.Size, *_: Any, **__: Any) -> int:
    batch, heads, length, width = query
    return 2 * batch * heads * length * length * width


@operation("received_from_lse", flops=_flops)
def received_from_lse_op(
    query: Tensor, key: Tensor, lse: Tensor, bias: Tensor | None, skip: int, given: bool
) -> list[Tensor]:
    """The registered operation, declared by its answer, with the row means if `given`."""
    shape = (query.shape[0], query.shape[2] - skip)
    return [query.new_empty(shape, dtype=torch.float32) for _ in range(2 if given else 1)]
