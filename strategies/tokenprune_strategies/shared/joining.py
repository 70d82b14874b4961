"""Which kept token every other one goes to."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.ops import bipartite_match, take
from tokenprune_strategies.shared.indexing import complement


def most_similar(hidden: Tensor, kept: Tensor) -> Tensor:
    """For every token the place among `kept` of the one that it goes to, `[B, N]`.

    Kept tokens stay where they are, the others go to the one with the largest cosine; ties go to
    the lower index.

    Args:
        hidden: `[B, N, D]`.
        kept: `[B, K]` ascending.
    """
    batch, count = hidden.shape[:2]
    rest = complement(kept, count)
    _, target = bipartite_match(take(hidden, rest), take(hidden, kept))
    own = torch.arange(kept.shape[1], device=kept.device).expand(batch, -1)
    return kept.new_empty(batch, count).scatter(1, kept, own).scatter(1, rest, target)
