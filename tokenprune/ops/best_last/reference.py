"""Plain torch: one sort by score, and the others put back into their own order."""

import torch
from torch import Tensor


def best_last(score: Tensor, number: int) -> Tensor:
    """See `tokenprune.ops.best_last`."""
    order = torch.sort(score, dim=1, descending=True, stable=True).indices
    # no two indices are equal, so topk has no ties to break and does in one operation what sort
    # does in three
    others = order[:, number:].topk(order.shape[1] - number, dim=1, largest=False).values
    return torch.cat((others, order[:, :number]), dim=1)
