"""Plain torch: on a CPU blocks of the weights, elsewhere the backend's attention."""

import torch
from torch import Tensor

from tokenprune.ops.attend import apart, in_blocks
from tokenprune.ops.logsumexp import attention_with_lse
from tokenprune.ops.received_from_lse import received_from_lse

# Numbers that one block of weights may hold: so that it stays in the cache from the product to its
# sum; and of whole heads and whole samples, as many as are worth an operation of their own (ours).
_BLOCK = 1 << 19
_HEADS = 1 << 18
_SAMPLES = 1 << 16


def attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, skip: int
) -> tuple[Tensor, Tensor]:
    """See `tokenprune.ops.attend`."""
    if in_blocks(query):
        return _in_blocks(query, key, value, bias, skip)
    bias = None if bias is None else bias.to(query.dtype)  # as the kernel sees it
    found = attention_with_lse(query, key, value, bias)
    if found is None:
        attended, received = apart(query, key, value, bias, skip)
    else:
        attended, lse = found
        received = received_from_lse(query, key, lse, bias=bias, skip=skip)
    return attended.transpose(1, 2).contiguous().transpose(1, 2), received


def _in_blocks(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, skip: int
) -> tuple[Tensor, Tensor]:
    batch, heads, length, _ = query.shape
    attended = value.new_empty(value.shape)
    received = value.new_empty(batch, length - skip)
    step = max(1, _SAMPLES // (heads * length**2))
    for start in range(0, batch, step):
        part = slice(start, start + step)
        parts = query[part], key[part], value[part]
        if len(parts[0]) > 1:  # heads of several samples in one line: one copy of all
            made = torch.stack(parts)
            parts = made[0], made[1], made[2]
        added = None if bias is None else bias[part].to(query.dtype)
        _some(*parts, added, attended[part], received[part])
    return attended, received.div_(heads * (length - skip)).float()


def _some(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    attended: Tensor,
    received: Tensor,
) -> None:
    """Fill `attended` and the sums `received` `[b, T - skip]` of a few samples.

    Blocks depend on the length alone, so a sample's numbers don't depend on its batch: several
    samples share a block only where one has all the heads.
    """
    batch, heads, length, width = query.shape
    skip = length - received.shape[1]
    row_step = -(-length // -(-(length**2) // _BLOCK))
    head_step = heads if batch > 1 else max(1, _HEADS // length**2 // 2 * 2)  # even, for threads
    for h in range(0, heads, head_step):
        part = slice(h, h + head_step)
        keys, values = key[:, part].flatten(0, 1).mT, value[:, part].flatten(0, 1)
        for r in range(0, length, row_step):
            rows = slice(r, r + row_step)
            queries = query[:, part, rows].flatten(0, 1)
            weights = _weights(queries, keys, bias, width**-0.5)
            torch.bmm(weights, values, out=attended[:, part, rows].flatten(0, 1))
            counted = weights.view(batch, -1, *weights.shape[1:])[:, :, max(0, skip - r) :, skip:]
            if h == r == 0:
                torch.sum(counted, (1, 2), out=received)
            else:
                received.add_(counted.sum((1, 2)))


def _weights(queries: Tensor, keys: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Rows of the softmax, `[b * h, R, T]`, of queries `[b * h, R, d]` and keys `[b * h, d, T]`."""
    if bias is None:
        unread = queries.new_empty(1)  # its factor is 0
        logits = torch.baddbmm(unread, queries, keys, beta=0, alpha=scale)
    else:
        if len(bias) > 1:
            bias = bias.repeat_interleave(len(queries) // len(bias), dim=0)
        logits = torch.baddbmm(bias[:, None], queries, keys, alpha=scale)
    return torch.softmax(logits, dim=-1)
