"""Softmax rows of some queries in float32, in plain torch."""

import torch
from torch import Tensor

from tokenprune.ops.checks import require, require_heads, require_rows

_LOWEST = -1e30
"""Stands for -inf in a bias, so that a row with every key hidden stays free of NaN."""


def attention_rows(
    query: Tensor,
    key: Tensor,
    *,
    seen: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention weights of some queries over all keys, head by head.

    Args:
        query: `[B, H, R, d]`, only the queries whose rows are wanted.
        key: `[B, H_kv, T, d]`; fewer heads are allowed if their number divides H.
        seen: `[B, R, T]` True where a query sees a key; default everywhere. Every query must see a
            key.
        bias: `[B, T]`, added to the logits of each key; -inf hides a key.
        scale: factor on the logits; default `d ** -0.5`.
        softcap: the c that scaled logits are capped to, c tanh(logit / c), in front of the bias
            (Gemma 2, 2408.00118, section 2); default no cap.

    Returns:
        float32 `[B, H, R, T]`, each row summing to 1.

    Raises:
        ValueError: the shapes don't fit.
    """
    batch, heads, rows, width = query.shape
    length = key.shape[2]
    require_heads(query, key)
    require_rows("bias", bias, batch, length)
    require(
        seen is None or tuple(seen.shape) == (batch, rows, length),
        "seen must be [{}, {}, {}]",
        batch,
        rows,
        length,
    )
    factor = width**-0.5 if scale is None else scale
    with torch.autocast(query.device.type, enabled=False):
        # Heads that share keys stand below each other as further rows, so keys aren't copied.
        # Queries are scaled and not logits, of which there are T for d numbers of a query.
        grouped = query.float().reshape(batch, key.shape[1], -1, width) * factor
        logits = (grouped @ key.float().mT).view(batch, heads, rows, length)
    if softcap is not None:
        logits = softcap * (logits / softcap).tanh()
    if bias is not None:
        logits = logits + bias.float().clamp(min=_LOWEST)[:, None, None]
    if seen is not None:
        logits = logits.masked_fill(~seen[:, None], float("-inf"))
    return logits.softmax(-1)


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
    rows = query.shape[2]
    require(-rows <= row < rows, "row must be in {}..{}, not {}", -rows, rows - 1, row)
    one = query[:, :, row, None]
    return attention_rows(one, key, bias=bias, scale=scale).mean(dim=1)[:, 0]
