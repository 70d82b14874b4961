"""Differences, and how large they may be."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

#: Largest difference that passes, as a share of the largest value compared with (ours). Float64 is
#: not tighter because many models compute norms and rotary rows in float32 whatever their dtype is.
TOLERANCES = {
    torch.float64: 1e-5,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 5e-2,
}
#: Dtypes in which rounding doesn't tip a choice between tokens.
PRECISE = (torch.float64, torch.float32)


@dataclass
class Difference:
    """The largest difference so far.

    Attributes:
        value: as a share of the largest absolute value of what is compared with.
        values: numbers compared.
    """

    value: float = 0.0
    values: int = 0

    def add(self, found: Tensor, reference: Tensor) -> None:
        """Compare two tensors of one shape; other shapes, NaN and infinity differ infinitely."""
        self.values += reference.numel()
        self.value = max(self.value, share(found, reference))


def share(found: Tensor, reference: Tensor) -> float:
    """Largest absolute difference as a share of the largest absolute value of `reference`."""
    if found.shape != reference.shape:
        return math.inf
    if torch.equal(found, reference):
        return 0.0
    found, reference = found.detach().double(), reference.detach().double()
    if not bool(found.isfinite().all() and reference.isfinite().all()):
        return math.inf
    largest = float(reference.abs().max())
    return float((found - reference).abs().max()) / (largest or 1.0)


def largest(pairs: Iterable[tuple[Tensor, Tensor]]) -> Difference:
    """The largest difference of several pairs (found, reference)."""
    total = Difference()
    for found, reference in pairs:
        total.add(found, reference)
    return total
