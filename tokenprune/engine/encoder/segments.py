"""The segments of a packed sequence, in each of which attention stays: frames or windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from tokenprune.engine.encoder.attention import attention


@dataclass(frozen=True)
class Segments:
    """Segments of equal length together, as dense batches.

    Attributes:
        rows: for every length L the rows of its S segments, `[S, L]`.
        back: `[R]` where every row of the sequence stands in `rows`, one after the other; None if
            it stands in its place.
        order: `[R]` `rows`, one after the other; with padding longer.
        real: `[S, L]` False for padding, where all segments are padded to one length; else None.
    """

    rows: Sequence[Tensor]
    back: Tensor | None
    order: Tensor
    real: Tensor | None = None

    @classmethod
    def of(cls, edges: Sequence[int], device: torch.device) -> Segments:
        """The segments between edges, S + 1 rows of the sequence."""
        starts: dict[int, list[int]] = {}
        for start, end in pairwise(edges):
            starts.setdefault(end - start, []).append(start)
        alike = sorted(starts.items())
        # made for all lengths at once, so that further ones cost no operations
        begin = torch.tensor([start for _, group in alike for start in group], device="cpu")
        length = torch.tensor([length for length, group in alike for _ in group], device="cpu")
        ahead = begin - (torch.cumsum(length, 0) - length)
        order = torch.repeat_interleave(ahead, length, output_size=edges[-1] - edges[0])
        order = (order + torch.arange(len(order), device="cpu")).to(device)
        counts = [len(group) * length for length, group in alike]
        rows = [
            part.view(-1, length)
            for part, (length, _) in zip(torch.split(order, counts), alike, strict=True)
        ]
        return cls(rows, None if len(rows) == 1 else order.argsort(), order)

    @classmethod
    def padded(cls, edges: Sequence[int], rows: Tensor) -> Segments:
        """The segments of rows that are left of a sequence, padded to the longest one.

        How many rows are left of each depends on values. In a graph lengths can't, so all have the
        one that no segment exceeds.

        Args:
            edges: of the whole sequence, S + 1 rows of it.
            rows: `[R]`, ascending, that are left of it.
        """
        borders = torch.tensor(edges, device=rows.device)
        starts = torch.searchsorted(rows, borders)
        longest = min(max(end - start for start, end in pairwise(edges)), len(rows))
        inside = torch.arange(longest, device=rows.device)
        table = (starts[:-1, None] + inside).clamp(max=len(rows) - 1)
        segment = torch.searchsorted(borders, rows, right=True) - 1
        place = torch.arange(len(rows), device=rows.device) - starts[segment]
        real = inside < starts.diff()[:, None]
        return cls([table], segment * longest + place, table.flatten(), real)

    @property
    def count(self) -> int:
        """Number of segments."""
        return sum(len(rows) for rows in self.rows)

    @property
    def lengths(self) -> list[int | Tensor]:
        """Rows of each segment of every length; where they are padded, `[S]` without padding."""
        if self.real is not None:
            return [self.real.sum(dim=1)]
        return [rows.shape[1] for rows in self.rows]

    def split(self, values: Tensor) -> list[Tensor]:
        """Values of rows `[R, ...]` by segment, `[S, L, ...]` for every length; padding is 0."""
        if self.back is None:
            return [torch.unflatten(values, 0, tuple(self.rows[0].shape))]
        parts = torch.split(values[self.order], [rows.numel() for rows in self.rows])
        parts = tuple(
            torch.unflatten(p, 0, tuple(r.shape)) for p, r in zip(parts, self.rows, strict=True)
        )
        if self.real is None:
            return [*parts]
        real = self.real.view(*self.real.shape, *[1] * (values.dim() - 1))
        return [torch.where(real, part, 0) for part in parts]

    def biases(self, bias: Tensor | None) -> list[Tensor | None]:
        """What is added to the logits of keys, `[S, L]` for every length, -inf for padding.

        Args:
            bias: `[R]` of the rows, or None.
        """
        parts = [None] * len(self.rows) if bias is None else self.split(bias)
        if self.real is None:
            return [*parts]
        # a segment that no row is left of sees its padding, so that nothing becomes NaN
        seen = self.real | ~self.real.any(dim=1, keepdim=True)
        hidden = torch.zeros_like(seen, dtype=torch.float32).masked_fill(~seen, -torch.inf)
        return [hidden if part is None else part + hidden for part in parts]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """What `split` took apart: `[R, ...]`."""
        flat = torch.cat([part.flatten(0, 1) for part in parts])
        return flat if self.back is None else flat[self.back]

    def heads(self, states: Tensor) -> list[Tensor]:
        """Heads of the sequence `[1, H, R, d]` by segment, `[S, H, L, d]` for every length."""
        return [part.transpose(1, 2) for part in self.split(states[0].transpose(0, 1))]

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, biases: Sequence[Tensor | None]
    ) -> Tensor:
        """Attention within every segment.

        Args:
            query: `[1, H, R, d]`.
            key: the same.
            value: the same.
            biases: added to the logits of each key, see `biases`.

        Returns:
            `[1, H, R, d]`.
        """
        parts = zip(self.heads(query), self.heads(key), self.heads(value), strict=True)
        made = [attention(*part, one) for part, one in zip(parts, biases, strict=True)]
        return self.join([part.transpose(1, 2) for part in made]).transpose(0, 1)[None]


Within = tuple[Segments, Sequence[Tensor | None]]
"""Segments of an attention, and what is added to key logits in those of every length."""
