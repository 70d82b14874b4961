"""Groups of tokens, told by a label of every token."""

import torch
from torch import Tensor

from tokenprune.ops import merge_compact


def means(states: Tensor, label: Tensor) -> Tensor:
    """Plain means `[C, D]` of the states `[N, D]` with each label `[N]` of 0..C-1."""
    ones = torch.ones(1, len(label), device=states.device)
    return merge_compact(states[None], label[None], ones, int(label.max()) + 1)[0]


def firsts(label: Tensor) -> Tensor:
    """The lowest token with each label: `[N]` -> `[C]`."""
    order = label.argsort(stable=True)
    ends = torch.bincount(label).cumsum(dim=0)
    return order[torch.cat((ends.new_zeros(1), ends[:-1]))]
