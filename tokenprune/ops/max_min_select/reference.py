"""Plain torch: all samples in step, one row of distances a pick."""

import torch
from torch import Tensor

from tokenprune.ops.picks import comparable

_BLOCK = 128


def max_min_select(distance: Tensor, k: int, gain: Tensor | None) -> Tensor:
    """See `tokenprune.ops.max_min_select`."""
    batch = distance.shape[0]
    sample = torch.arange(batch, device=distance.device)
    index = torch.empty((batch, k), dtype=torch.int64, device=distance.device)
    score = first_score(distance, gain)
    nearest = torch.full_like(score, torch.inf)
    for step in range(k):
        pick = score.argmax(1)
        index[:, step] = pick
        nearest[sample, pick] = -torch.inf  # stays so, and no other token gets there
        score = torch.minimum(nearest, comparable(distance[sample, pick].float()), out=nearest)
        if gain is not None:
            taken = nearest == -torch.inf
            score = comparable(nearest * gain.float()).masked_fill_(taken, -torch.inf)
    return index


def first_score(distance: Tensor, gain: Tensor | None) -> Tensor:
    """Distance `[B, N]` of every token from the nearest other one, times its gain."""
    batch, tokens, _ = distance.shape
    nearest = distance.new_full((batch, tokens), torch.inf, dtype=torch.float32)
    # Blocks of rows: hiding the diagonal takes a copy, and a block of it stays in the cache.
    for start in range(0, tokens, _BLOCK):
        block = distance[:, start : start + _BLOCK].to(torch.float32, copy=True)
        block.diagonal(start, 1, 2).fill_(torch.inf)
        nearest = torch.minimum(nearest, block.amin(1))
    return comparable(nearest if gain is None else comparable(nearest) * gain.float())
