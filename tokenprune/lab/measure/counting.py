"""Which batches stand for all: to count FLOPs on, and for the peak of memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

#: FLOPs are counted on one of so many batches, and on so many batches at least (ours).
BATCHES_PER_COUNT, LEAST = 8, 4


def counted_batches(batches: int) -> set[int]:
    """Numbers of the batches on which FLOPs are counted: the first, the last, and others between.

    Pictures and prompts may be of many sizes, so one batch doesn't stand for all; counting on all
    would double the time of a run.

    Args:
        batches: how many there are.
    """
    count = min(batches, max(LEAST, math.ceil(batches / BATCHES_PER_COUNT)))
    return {round(i * (batches - 1) / max(count - 1, 1)) for i in range(count)}


def elements(inputs: Any) -> int:
    """Elements of all tensors of a batch's inputs: pixels and ids, padding included."""
    leaves = tree_leaves(dict(inputs) if isinstance(inputs, Mapping) else inputs)
    return sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor))
