"""Plain torch: one product for the weights, and one of them with the values."""

import torch
from torch import Tensor


def attend_short(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """See `tokenprune.ops.attend_short`."""
    batch, heads, rows, width = query.shape
    if batch > 1:
        bias = bias.repeat_interleave(heads, dim=0)
    queries, keys, values = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)
    logits = torch.baddbmm(bias[:, None], queries, keys.mT, alpha=width**-0.5)
    return torch.bmm(logits.softmax(dim=-1), values).view(batch, heads, rows, width)
