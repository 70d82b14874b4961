"""Plain torch: the score matrix of one sample at a time."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

Pair = tuple[Tensor | None, Tensor | None]


def bipartite_match(
    a: Tensor, b: Tensor, gains: Pair, biases: Pair, blocks: Pair, squash: bool
) -> tuple[Tensor, Tensor]:
    """See `tokenprune.ops.bipartite_match`; pairs hold the term of `a`, then of `b`."""
    batch, rows, _ = a.shape
    value = torch.empty((batch, rows), dtype=torch.float32, device=a.device)
    index = torch.empty((batch, rows), dtype=torch.int64, device=a.device)
    # Sample by sample, so that a batch gives bit for bit what its samples give alone.
    for i in range(batch):
        score = normalize(a[i].float(), dim=-1) @ normalize(b[i].float(), dim=-1).T
        if squash:
            score.add_(1.0).mul_(0.5)
        for row, col, combine in (
            (gains[0], gains[1], score.mul_),
            (biases[0], biases[1], score.add_),
        ):
            if row is not None:
                combine(row[i].float()[:, None])
            if col is not None:
                combine(col[i].float()[None])
        if blocks[0] is not None:
            score.masked_fill_(blocks[0][i][:, None], -torch.inf)
        if blocks[1] is not None:
            score.masked_fill_(blocks[1][i][None], -torch.inf)
        value[i], index[i] = score.max(dim=-1)
    return value, index
