"""Plain torch: blocks of weights, each one product, summed over its queries and forgotten."""

import torch
from torch import Tensor

_BLOCK_CPU = 1 << 19
_BLOCK_DEVICE = 1 << 26


def received_from_lse(
    query: Tensor, key: Tensor, lse: Tensor, bias: Tensor | None, skip: int, given: bool
) -> list[Tensor]:
    """See `tokenprune.ops.received_from_lse`; what tokens give comes second."""
    heads, rows = query.shape[1], query.shape[2] - skip
    queries, keys, lse = query[:, :, skip:].float(), key.float().mT, lse[:, :, skip:, None].float()
    if key.shape[1] != heads:
        keys = keys.repeat_interleave(heads // key.shape[1], dim=1)
    total, patches = queries.new_zeros(query.shape[0], rows), keys[..., skip:]
    for sample, sums in enumerate(total):  # in blocks that don't depend on the batch
        _add(queries[sample], patches[sample], lse[sample], sums)
    if bias is not None:
        hidden = bias[:, skip:] == -torch.inf  # 0 times a sum that may be too large for a number
        total = (total * bias[:, skip:].float().exp()).masked_fill(hidden, 0.0)
    found = [total / (heads * rows)]
    if given:
        logits = queries @ keys[..., :skip] * query.shape[-1] ** -0.5 - lse
        if bias is not None:
            logits = logits + bias[:, None, None, :skip].float()
        found.append((1 - logits.exp().sum(-1).mean(1)) / rows)
    return found


def _add(queries: Tensor, keys: Tensor, lse: Tensor, sums: Tensor) -> None:
    """Add `sum exp(q_i k_j / sqrt(d) - lse_i)` over heads and queries to `sums` `[T - skip]`."""
    heads, rows, width = queries.shape
    budget = _BLOCK_CPU if queries.device.type == "cpu" else _BLOCK_DEVICE
    row_step = -(-rows // -(-(rows**2) // budget))
    head_step = max(1, budget // (row_step * rows))
    for h in range(0, heads, head_step):
        for r in range(0, rows, row_step):
            part = slice(h, h + head_step), slice(r, r + row_step)
            logits = torch.baddbmm(
                lse[part], queries[part], keys[part[0]], beta=-1, alpha=width**-0.5
            )
            sums.add_(logits.exp_().sum((0, 1)))
