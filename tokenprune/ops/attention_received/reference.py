"""Plain torch: blocks of the softmax matrix, each summed over its queries and forgotten."""

import torch
from torch import Tensor

_BLOCK_CPU = 1 << 19
_BLOCK_DEVICE = 1 << 26
_LOWEST = -1e30
"""Stands for -inf in a bias, so that a row with every key hidden stays free of NaN."""


def attention_received(
    query: Tensor, key: Tensor, bias: Tensor | None, scale: float, skip: int
) -> Tensor:
    """See `tokenprune.ops.attention_received`."""
    batch, heads, length, _ = query.shape
    queries = query[:, :, skip:].float() * scale
    keys = key.float().mT
    if key.shape[1] != heads:
        keys = keys.repeat_interleave(heads // key.shape[1], dim=1)
    if bias is None:
        bias = queries.new_zeros(batch, length)
    if batch == 0:
        return queries.new_zeros(0, length - skip)
    floor = bias.float().clamp(min=_LOWEST)
    received = [_one(queries[b], keys[b], floor[b]) for b in range(batch)]
    total = torch.stack(received) if batch > 1 else received[0][None]
    return total[:, skip:] / (heads * (length - skip))


def _one(queries: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
    # Sample by sample, in blocks that don't depend on the batch: a batch gives bit for bit what its
    # samples give alone, and on a CPU a block stays in the cache from the product to its sum.
    heads, rows, _ = queries.shape
    length = keys.shape[-1]
    budget = _BLOCK_CPU if queries.device.type == "cpu" else _BLOCK_DEVICE
    row_step = -(-rows // -(-rows * length // budget))
    head_step = max(1, budget // (row_step * length))
    total: Tensor | None = None
    for h in range(0, heads, head_step):
        for r in range(0, rows, row_step):
            block = queries[h : h + head_step, r : r + row_step]
            logits = torch.baddbmm(bias, block, keys[h : h + head_step])
            part = logits.softmax(-1).sum((0, 1))
            total = part if total is None else total.add_(part)
    return queries.new_zeros(length) if total is None else total
