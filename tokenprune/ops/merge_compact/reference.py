"""Plain torch: add each token, scaled by its share of the slot's weight, to the slot's row."""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


def merge_compact(x: Tensor, slot: Tensor, weight: Tensor, length: int) -> Tensor:
    """See `tokenprune.ops.merge_compact`."""
    batch, _, width = x.shape
    kind = torch.promote_types(torch.float32, x.dtype)
    rows = slot_rows(slot, length)
    weights = weight.to(kind).reshape(-1)
    totals = add_rows(weights.new_zeros(batch * (length + 1)), rows, weights)
    total = totals[rows]
    # The share, not the weight, scales the token: w / w is exactly 1, (w * x) / w isn't x.
    share = torch.where(total != 0, weights / total, 0.0)
    states = x.to(kind).reshape(-1, width)
    if x.device.type == "cpu" and states.numel():
        out = weighted_sums(states, rows, share, batch * (length + 1))
    else:
        out = add_rows(states.new_zeros(batch * (length + 1), width), rows, states * share[:, None])
    return out.view(batch, length + 1, width)[:, :length].to(x.dtype).contiguous()


def weighted_sums(states: Tensor, rows: Tensor, share: Tensor, count: int) -> Tensor:
    """`out[rows] += share * states`, in the order of the states, by one pass over whole rows.

    On a CPU several times faster than adding row by row.

    Args:
        states: `[n, D]`, n > 0.
        rows: `[n]` row of each among `count`.
        share: `[n]` factors.
        count: number of rows; those that nothing is added to are zeros.
    """
    grouped, order = rows.sort(stable=True)
    first = torch.searchsorted(grouped, torch.arange(count, device=rows.device))
    weights = share[order].to(states.dtype)
    return embedding_bag(order, states, first, mode="sum", per_sample_weights=weights)


def slot_rows(slot: Tensor, length: int) -> Tensor:
    """Row of every token among `[B * (length + 1)]`, the last of each sample for dropped ones."""
    kept = (slot >= 0) & (slot < length)
    first = torch.arange(slot.shape[0], device=slot.device)[:, None] * (length + 1)
    return (slot.where(kept, length) + first).reshape(-1)


def add_rows(out: Tensor, rows: Tensor, parts: Tensor) -> Tensor:
    """`out[rows] += parts` in the order of `rows`, the same on every run."""
    if out.device.type == "cpu":
        return out.index_add_(0, rows, parts)
    # On CUDA, index_add_ adds atomically in any order; index_put_ sorts first.
    return out.index_put_((rows,), parts, accumulate=True)
