"""What attention of packed towers may compute in vain so that it takes fewer operations."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Allowance:
    """What may be computed in vain (all numbers ours).

    Attributes:
        longest: rows of a picture up to which its windows are hidden by a mask, so that none has
            to be gathered.
        entries: of all such masks of an attention.
        padded: rows with padding, for one that is none, up to which segments go together.
    """

    longest: int
    entries: int
    padded: int


# The products that a row has with the keys of its picture are a small part of a block's work.
LAUNCHING = Allowance(longest=640, entries=1 << 22, padded=2)
"""Where operations are launched, which takes longer than most of them."""
# Measured on heads as wide as Qwen2.5-VL's: windows by themselves are faster from 64 rows on.
BY_TYPE = {"cpu": Allowance(longest=64, entries=1 << 12, padded=1)}
"""Where operations begin at once."""


def allowance(device: torch.device) -> Allowance:
    """What may be computed in vain on a device."""
    return BY_TYPE.get(device.type, LAUNCHING)
