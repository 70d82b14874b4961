"""Drawing without replacement, decided by a key alone."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.ops import topk_indices

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def draw(count: int, keep: int, key: tuple[int, ...], device: torch.device) -> Tensor:
    """`keep` of `count` indices without replacement, ascending, `[keep]` int64.

    The key alone decides, on every device and in every release of torch: each index gets a
    pseudo-random number that is computed from it (SplitMix64), and the largest win. A generator
    would have to draw on the CPU and copy, which CUDA graphs don't allow.
    """
    state = 0
    for part in key:
        state = _mix_whole(state + part + _STEP)
    number = torch.arange(1, count + 1, device=device) * _signed(_STEP) + _signed(state)
    for shift, factor in _ROUNDS:
        number = (number ^ _shifted(number, shift)) * _signed(factor)
    number = number ^ _shifted(number, 31)
    # 24 bits, because selection compares in float32.
    return topk_indices(_shifted(number, 40)[None], keep)[0]


def _mix_whole(number: int) -> int:
    number &= _MASK
    for shift, factor in _ROUNDS:
        number = ((number ^ (number >> shift)) * factor) & _MASK
    return number ^ (number >> 31)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def _shifted(number: Tensor, bits: int) -> Tensor:
    # The shift of a negative int64 fills with ones; SplitMix64 is defined on unsigned numbers.
    return (number >> bits) & ((1 << (64 - bits)) - 1)
