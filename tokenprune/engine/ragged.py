"""Answers whose samples leave different lengths, put together into dense ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tokenprune.reduction import Reduction


def stacked(samples: Sequence[Reduction]) -> Iterator[tuple[list[int], Reduction]]:
    """Dense reductions of the samples that are alike in length and in what they carry.

    Args:
        samples: dense reductions of a batch of one, without reconstruction.

    Yields:
        Numbers of the samples, and their reduction.
    """
    alike: dict[tuple[object, ...], list[int]] = {}
    for number, one in enumerate(samples):
        given = (one.weight is None, one.created is None, one.score is None, *sorted(one.riders))
        alike.setdefault((one.length, *given), []).append(number)
    for numbers in alike.values():
        yield numbers, _stack([samples[number] for number in numbers])


def _stack(samples: Sequence[Reduction]) -> Reduction:
    def joined(name: str) -> Tensor | None:
        values = [getattr(one, name) for one in samples]
        return None if values[0] is None else torch.cat(values)

    return Reduction(
        anchor=joined("anchor"),
        slot=joined("slot"),
        weight=joined("weight"),
        created=joined("created"),
        score=joined("score"),
        riders={
            name: torch.cat([one.riders[name] for one in samples]) for name in samples[0].riders
        },
    )
