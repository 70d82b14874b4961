"""Plain torch: two stable sorts, by value and then by being a number at all."""

import torch
from torch import Tensor


def topk_gather(score: Tensor, k: int, riders: list[Tensor]) -> list[Tensor]:
    """See `tokenprune.ops.topk_gather`; the indices come first."""
    value = score.float()
    nan = value.isnan()
    order = torch.sort(value.masked_fill(nan, -torch.inf), dim=1, descending=True, stable=True)[1]
    last = torch.sort(nan.gather(1, order), dim=1, stable=True)[1]
    index = order.gather(1, last)[:, :k].sort(dim=1).values
    sample = torch.arange(score.shape[0], device=score.device)[:, None]
    return [index, *(rider[sample, index].contiguous() for rider in riders)]
