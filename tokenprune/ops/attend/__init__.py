"""Attention, and what each token receives and gives, from one product of queries and keys."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tokenprune.ops.attention_received import attention_received_op
from tokenprune.ops.checks import require, require_rows
from tokenprune.ops.flop_formulas import attention_flops
from tokenprune.ops.registering import operation


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None = None, skip: int = 0
) -> tuple[Tensor, Tensor]:
    """`scaled_dot_product_attention` and `attention_received` of the same queries and keys.

    The weights are computed once for both. Differentiable: where a gradient is wanted, or under
    autocast, the two are computed one after the other.

    Args:
        query: `[B, H, T, d]`.
        key: `[B, H, T, d]`.
        value: `[B, H, T, d]`.
        bias: `[B, T]`, added to the logits of each key; at least one of a sample is not -inf.
        skip: number of leading tokens left out of what is received, as rows and columns.

    Returns:
        Attended values, `[B, H, T, d]`, and the mean weight that each token receives, float32
        `[B, T - skip]`, which carries no gradient.

    Raises:
        ValueError: the shapes don't fit.
    """
    attended, received = _checked(query, key, value, bias, skip, given=False)
    return attended, received


def attend_margins(
    query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None = None, skip: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """`scaled_dot_product_attention` and `attention_margins` of the same queries and keys.

    Args:
        query: `[B, H, T, d]`.
        key: `[B, H, T, d]`.
        value: `[B, H, T, d]`.
        bias: `[B, T]`, see `attend`.
        skip: number of leading tokens left out of both means, as rows and columns.

    Returns:
        Attended values, `[B, H, T, d]`, and the mean weights that each token receives and gives,
        float32 `[B, T - skip]` each, which carry no gradient.

    Raises:
        ValueError: the shapes don't fit.
    """
    attended, received, given = _checked(query, key, value, bias, skip, given=True)
    return attended, received, given


def _checked(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, skip: int, *, given: bool
) -> list[Tensor]:
    batch, _, length, _ = query.shape
    for name, each in (("key", key), ("value", value)):
        require(each.shape == query.shape, "{} must be {}, not {}", name, query.shape, each.shape)
    require(0 <= skip < length, "skip must be in 0..{}, not {}", length - 1, skip)
    require_rows("bias", bias, batch, length)
    differentiable = any(each.requires_grad for each in (query, key, value))
    autocast = not query.is_meta and torch.is_autocast_enabled(query.device.type)
    if autocast or (differentiable and torch.is_grad_enabled()):
        return apart(query, key, value, bias, skip, given)
    out: list[Tensor] = attend_op(query, key, value, bias, skip, given)
    return out


def apart(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, skip: int, given: bool
) -> list[Tensor]:
    """`attend` in two operations, each with a product of its own."""
    mask = None if bias is None else bias[:, None, None, :].to(query.dtype)
    attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scale, heads = query.shape[-1] ** -0.5, (query.detach(), key.detach())
    return [attended, *attention_received_op(*heads, bias, scale, skip, given)]


def in_blocks(query: Tensor) -> bool:
    """Whether the weights of these queries are made in blocks, on a CPU, and heads stand apart.

    Elsewhere a token's heads stand side by side, as the kernels of backends leave them, so that a
    model joins them without a copy.
    """
    return query.device.type == "cpu" and query.dtype in (torch.float32, torch.float64)


def _flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return attention_flops(query, key, value)


@operation("attend", flops=_flops)
def attend_op(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, skip: int, given: bool
) -> list[Tensor]:
    """The registered operation, declared by its answer, with the row means if `given`."""
    batch, heads, length, width = value.shape
    if in_blocks(query):
        attended = value.new_empty(value.shape)
    else:
        attended = value.new_empty(batch, length, heads, width).transpose(1, 2)
    means = 2 if given else 1
    shape = (batch, length - skip)
    return [attended, *(query.new_empty(shape, dtype=torch.float32) for _ in range(means))]
