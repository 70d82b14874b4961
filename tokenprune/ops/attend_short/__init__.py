"""Attention with a bias over few keys of one sample: two products and one matrix of weights."""

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from tokenprune.ops.checks import require, require_rows
from tokenprune.ops.flop_formulas import attention_flops
from tokenprune.ops.registering import operation

# Keys up to which the products stand in for the backend's kernel (ours).
_SHORT = 256


def suits(query: Tensor, key: Tensor) -> bool:
    """Whether `attend_short` is meant: one sample on a CPU in float32, without a gradient.

    Several samples would be copied first, since heads of different ones lie apart in memory.

    Args:
        query: `[B, H, T, d]`.
        key: `[B, H, T', d]`.
    """
    if is_compiling() or torch.is_grad_enabled() or query.device.type != "cpu":
        return False
    few = query.shape[0] == 1 and key.shape[2] <= _SHORT
    return few and query.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def attend_short(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """`scaled_dot_product_attention` with a bias per key, by a matrix of all weights.

    Args:
        query: `[B, H, T, d]`.
        key: `[B, H, T', d]`.
        value: `[B, H, T', d]`.
        bias: `[B, T']`, added to the logits of each key; at least one of a sample is not -inf.

    Returns:
        Attended values, `[B, H, T, d]`, which carry no gradient.

    Raises:
        ValueError: the shapes don't fit.
    """
    for name, each in (("key", key), ("value", value)):
        same = each.shape[:2] == query.shape[:2] and each.shape[2:] == key.shape[2:]
        require(same, "query {} and {} {} don't fit together", query.shape, name, each.shape)
    require(query.shape[3] == key.shape[3], "query and key differ in width: {}", key.shape)
    require_rows("bias", bias, key.shape[0], key.shape[2])
    attended: Tensor = attend_short_op(query, key, value, bias)
    return attended


def _flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return attention_flops(query, key, value)


@operation("attend_short", flops=_flops)
def attend_short_op(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """The registered operation, declared by its answer; `attend_short` checks its arguments."""
    return query.new_empty(query.shape)
