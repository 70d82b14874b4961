"""Values of several batches in one line, one batch behind the other, and back as views.

Batches of other shapes can't be one dense batch. In a line they are, so what is done to each number
or row by itself is done in one operation, however many batches there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

Shape = tuple[int, int]
"""Samples B and tokens K of a batch."""


def flat(parts: Sequence[Tensor]) -> Tensor:
    """Values `[B, K, ...]` of every batch in a line, `[n, ...]`."""
    if len(parts) == 1:
        return parts[0].flatten(0, 1)
    return torch.cat([part.flatten(0, 1) for part in parts])


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Values `[K, ...]` of several parts in a line, `[n, ...]`, and a single part as it is."""
    return parts[0] if len(parts) == 1 else torch.cat([*parts])


def stacked(line: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
    """The inverse: values `[n, ...]` as views `[B, K, ...]` of these shapes."""
    sizes = [batch * count for batch, count in shapes]
    parts = (line,) if len(sizes) == 1 else torch.split(line, sizes)
    return [torch.unflatten(p, 0, shape) for p, shape in zip(parts, shapes, strict=True)]


def each(values: Sequence[int], counts: Sequence[int], device: torch.device) -> Tensor:
    """Each value as often as its count says, in a line; the number of operations is fixed."""
    if len(values) == 1:
        return torch.full((counts[0],), values[0], dtype=torch.int64, device=device)
    made = torch.tensor(values, dtype=torch.int64, device="cpu").repeat_interleave(
        torch.tensor(counts, dtype=torch.int64, device="cpu"), output_size=sum(counts)
    )
    return sent(made, device)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Values on a device, and of the CPU without waiting for what is at work there.

    What is copied from the CPU's ordinary memory is read before the copy's call returns.
    """
    if values.device == device:
        return values
    return values.to(device, non_blocking=values.device.type == "cpu" and device.type == "cuda")


def starts(counts: Sequence[int]) -> list[int]:
    """How many stand in front of each of several parts of a line."""
    return list(accumulate(counts, initial=0))[:-1]
