"""The windows of a whole packed sequence, and which rows of it that are left each one has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from tokenprune.engine.encoder.allowance import Allowance
from tokenprune.engine.encoder.segments import Segments
from tokenprune.engine.lines import Shape


@dataclass(frozen=True)
class Windows:
    """Where the attention of blocks is parted.

    Attributes:
        edges: S + 1 rows of the whole sequence, borders of windows.
        frames: where pictures and frames begin and end in it.
        device: of the sequence.
    """

    edges: Sequence[int]
    frames: Sequence[int]
    device: torch.device

    @classmethod
    def of(
        cls, borders: Tensor | Sequence[int] | None, frames: Sequence[int], device: torch.device
    ) -> Windows:
        """The windows between borders, which are read once for all blocks that have them.

        Args:
            borders: as the adapter gives them.
            frames: see the class.
            device: of the sequence.
        """
        edges = borders.tolist() if isinstance(borders, Tensor) else borders
        return cls(list(frames if edges is None else edges), frames, device)

    @property
    def whole(self) -> bool:
        """Whether each picture or frame is one window."""
        return self.edges == self.frames

    @cached_property
    def inside(self) -> bool:
        """Whether no window reaches into a second picture or frame."""
        return set(self.frames) <= set(self.edges)

    @cached_property
    def number(self) -> Tensor:
        """`[R]` which window a row of the whole sequence is of."""
        ends = torch.tensor(self.edges[1:], device="cpu").to(self.device)
        return torch.searchsorted(
            ends, torch.arange(self.edges[-1], device=self.device), right=True
        )

    @cached_property
    def _numbers(self) -> Tensor:
        return torch.arange(len(self.edges), device=self.device)

    def hidden(self, shapes: Sequence[Shape], allowed: Allowance) -> bool:
        """Whether masks may hide the windows of pictures of so many rows, `[B, L]`."""
        entries = sum(batch * length**2 for batch, length in shapes)
        longest = max(length for _, length in shapes)
        return self.inside and longest <= allowed.longest and entries <= allowed.entries

    def segments(self, rows: Tensor, counts: Sequence[int], padded: int = 1) -> Segments:
        """Windows of the rows that are left, whose number has to be waited for.

        Args:
            rows: `[R]` of the whole sequence, in any order.
            counts: how many rows are left of each picture or frame, in the order of the sequence.
            padded: see `Segments.grouped`.
        """
        number, order = self.number[rows].sort(stable=True)
        borders: list[int] = torch.searchsorted(number, self._numbers).tolist()
        lengths = [end - start for start, end in pairwise(borders)]
        share = self._share(lengths, counts)
        return Segments.grouped(lengths, self.device, order, share, padded=padded)

    def _share(self, lengths: Sequence[int], counts: Sequence[int]) -> Sequence[float] | None:
        """The part of its picture's rows that each window has."""
        if not self.inside:
            return None
        share, frame = [], 0
        for start, length in zip(self.edges, lengths, strict=False):
            while frame + 1 < len(self.frames) - 1 and self.frames[frame + 1] <= start:
                frame += 1
            share.append(length / max(1, counts[frame]))
        return share
