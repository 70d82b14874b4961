"""Plain torch: blocks of the softmax matrix, each summed over its queries and forgotten."""

import torch
from torch import Tensor

_BLOCK_CPU = 1 << 19
_BLOCK_DEVICE = 1 << 26
_LOWEST = -1e30
"""Stands for -inf in a bias, so that a row with every key hidden stays free of NaN."""


def attention_received(
    query: Tensor, key: Tensor, bias: Tensor | None, scale: float, skip: int, given: bool
) -> list[Tensor]:
    """See `tokenprune.ops.attention_received`."""
    batch, heads, length, _ = query.shape
    queries = query[:, :, skip:].float() * scale
    keys = key.float().mT
    if key.shape[1] != heads:
        keys = keys.repeat_interleave(heads // key.shape[1], dim=1)
    if bias is None:
        bias = queries.new_zeros(batch, length)
    floor = bias.float().clamp(min=_LOWEST)
    columns = queries.new_zeros(batch, length)
    ahead = queries.new_zeros(batch, length - skip) if given else None
    for b in range(batch):
        _add(queries[b], keys[b], floor[b], columns[b], None if ahead is None else ahead[b])
    received = columns[:, skip:] / (heads * (length - skip))
    if ahead is None:
        return [received]
    return [received, (1.0 - ahead / heads) / (length - skip)]


def _add(
    queries: Tensor, keys: Tensor, bias: Tensor, columns: Tensor, ahead: Tensor | None
) -> None:
    """Add a sample's weights to the sums of its columns, and of its rows over tokens left out.

    Sample by sample, in blocks that don't depend on the batch: a batch gives bit for bit what its
    samples give alone, and on a CPU a block stays in the cache from the product to its sum.
    """
    heads, rows, _ = queries.shape
    length = keys.shape[-1]
    budget = _BLOCK_CPU if queries.device.type == "cpu" else _BLOCK_DEVICE
    row_step = -(-rows // -(-rows * length // budget))
    head_step = max(1, budget // (row_step * length))
    for h in range(0, heads, head_step):
        for r in range(0, rows, row_step):
            block = queries[h : h + head_step, r : r + row_step]
            weights = torch.baddbmm(bias, block, keys[h : h + head_step]).softmax(-1)
            columns.add_(weights.sum((0, 1)))
            if ahead is not None:
                ahead[r : r + row_step].add_(weights[..., : length - rows].sum((0, 2)))
