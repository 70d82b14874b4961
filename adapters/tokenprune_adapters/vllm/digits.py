"""Numbers that travel behind features, in digits that survive any floating-point type."""

from __future__ import annotations

import torch
from torch import Tensor

#: Numbers up to this one are exact in any floating-point type.
BASE = 128

#: Digits of a number.
DIGITS = 3


def digits(numbers: Tensor) -> Tensor:
    """Digits `[..., DIGITS]` int64 of numbers `[...]` below `BASE ** DIGITS`, the lowest first."""
    return numbers[..., None] // _powers(numbers) % BASE


def number(digits: Tensor) -> Tensor:
    """Numbers `[...]` int64 of digits `[..., DIGITS]` of any type; the inverse of `digits`."""
    found = digits.round().long()
    return (found * _powers(found)).sum(dim=-1)


def _powers(like: Tensor) -> Tensor:
    return BASE ** torch.arange(DIGITS, device=like.device)
