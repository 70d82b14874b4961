"""The segments of a packed sequence, in each of which attention stays: frames or windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise

import torch
from torch import Tensor

from tokenprune.engine.encoder.attention import attention
from tokenprune.engine.encoder.pictures import Heads, Pictures, mask_of, masked
from tokenprune.engine.lines import stacked
from tokenprune.interface.signals import PADDED, BlockAttention, Signal


@dataclass(frozen=True)
class Segments:
    """Segments of equal length together, as dense batches.

    Attributes:
        rows: for every length L the rows of its S segments, `[S, L]`.
        back: `[R]` where every row of the sequence stands in `rows`, one after the other; None if
            it stands in its place.
        order: `[R]` `rows`, one after the other; with padding longer.
        real: for every length `[S, L]`, False for padding; None if there is none.
        share: of each segment of every length the part of its picture's rows that it has, if it is
            known.
        repeated: whether padding repeats a row of its own segment, so that it may be read.
        masks: of `attend`, by length and type, so far.
    """

    rows: Sequence[Tensor]
    back: Tensor | None
    order: Tensor
    real: Sequence[Tensor] | None
    share: Sequence[Sequence[float]] | None
    repeated: bool
    masks: dict[tuple[int, torch.dtype], Tensor]

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
        back = None if len(rows) == 1 else order.argsort()
        return cls(rows, back, order, real=None, share=None, repeated=False, masks={})

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
        back = segment * longest + place
        return cls(
            [table], back, table.flatten(), real=[real], share=None, repeated=False, masks={}
        )

    @classmethod
    def grouped(
        cls,
        lengths: Sequence[int],
        device: torch.device,
        order: Tensor | None = None,
        share: Sequence[float] | None = None,
        *,
        padded: int = 1,
    ) -> Segments:
        """Segments of rows that stand anywhere, padded where that makes few batches of many.

        Args:
            lengths: rows of each segment, of some 0.
            device: of the sequence.
            order: `[R]` the rows of the first one, then those of the second; None if they stand so.
            share: of each segment, see the class.
            padded: rows with padding, for one that is none, up to which segments go together.
        """
        groups = _groups(lengths, padded)
        starts = list(accumulate(lengths, initial=0))
        shapes = [(len(group), lengths[group[0]]) for group in groups]
        numbers = list(chain.from_iterable(groups))
        begin, count, wide = torch.tensor(
            [
                [starts[one] for one in numbers],
                [lengths[one] for one in numbers],
                [length for group, (_, length) in zip(groups, shapes, strict=True) for _ in group],
            ],
            device="cpu",
        )
        ahead = begin - (wide.cumsum(0) - wide)
        total = sum(many * length for many, length in shapes)
        ahead, begin, count = torch.stack((ahead, begin, begin + count)).repeat_interleave(
            wide, dim=1, output_size=total
        )
        places, rows = torch.arange(total, device="cpu"), starts[-1]
        table = places + ahead
        real = table < count
        back = torch.empty(rows, dtype=torch.int64, device="cpu")
        back[table[real]] = places[real]
        table = torch.cat((torch.where(real, table, begin), back)).to(device)
        table, back = torch.split(table, [total, rows])
        if order is not None:
            table, back = order[table], torch.empty_like(order).scatter_(0, order, back)
        return cls(
            stacked(table, shapes),
            back,
            table,
            stacked(real.to(device), shapes) if total > rows else None,
            None if share is None else [[share[one] for one in group] for group in groups],
            repeated=True,
            masks={},
        )

    @property
    def count(self) -> int:
        """Number of segments."""
        return sum(len(rows) for rows in self.rows)

    @property
    def lengths(self) -> list[int | Tensor]:
        """Rows of each segment of every length; where they are padded, `[S]` without padding."""
        if self.real is not None:
            return [real.sum(dim=1) for real in self.real]
        return [rows.shape[1] for rows in self.rows]

    def serves(self, wanted: Sequence[Signal]) -> bool:
        """Whether signals can be computed from these segments."""
        return self.real is None or all(signal.compute in PADDED for signal in wanted)

    def split(self, values: Tensor, *, cleared: bool = True) -> list[Tensor]:
        """Values of rows `[R, ...]` by segment, `[S, L, ...]` for every length.

        Args:
            values: the values.
            cleared: whether padding is 0 also where it repeats a row.
        """
        if self.back is None:
            return [torch.unflatten(values, 0, tuple(self.rows[0].shape))]
        parts = torch.split(values[self.order], [rows.numel() for rows in self.rows])
        parts = tuple(
            torch.unflatten(p, 0, tuple(r.shape)) for p, r in zip(parts, self.rows, strict=True)
        )
        if self.real is None or (self.repeated and not cleared):
            return [*parts]
        return [_cleared(part, real, 1) for part, real in zip(parts, self.real, strict=True)]

    def biases(self, bias: Tensor | None) -> list[Tensor | None]:
        """What is added to the logits of keys, `[S, L]` for every length, -inf for padding.

        Args:
            bias: `[R]` of the rows, or None.
        """
        parts = [None] * len(self.rows) if bias is None else self.split(bias, cleared=False)
        if self.real is None:
            return [*parts]
        if self.repeated:
            hidden = [real.log() for real in self.real]  # 0 and -inf
            return [
                one if part is None else one + part for one, part in zip(hidden, parts, strict=True)
            ]
        return [_hidden(real, part) for real, part in zip(self.real, parts, strict=True)]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """What `split` took apart: `[R, ...]`."""
        flat = torch.cat([part.flatten(0, 1) for part in parts])
        return flat if self.back is None else flat[self.back]

    def heads(self, states: Tensor) -> list[Tensor]:
        """Heads of the sequence `[1, H, R, d]` by segment, `[S, H, L, d]` for every length."""
        parts = self.split(states[0].transpose(0, 1), cleared=False)
        return [part.transpose(1, 2) for part in parts]

    def attend(self, heads: Heads, biases: Sequence[Tensor | None]) -> Tensor:
        """Attention of the `heads` of every segment, `biases` with it: `[1, H, R, d]`."""
        made = []
        for place, (q, k, v, bias) in enumerate(zip(*heads, biases, strict=True)):
            if bias is not None and self.repeated:
                made.append(masked(q, k, v, self._mask(place, bias, q.dtype)))
            else:
                made.append(attention(q, k, v, bias))
        return self.join([part.transpose(1, 2) for part in made]).transpose(0, 1)[None]

    def views(self, heads: Heads, biases: Sequence[Tensor | None]) -> list[BlockAttention]:
        """What signals are computed from, length by length; parts of pictures as far as known."""
        query, key, value = heads
        reals: Sequence[Tensor | None] = [None] * len(self.rows)
        if self.real is not None:
            reals = self.real
            if self.repeated:
                query, key, value = (
                    [_cleared(one, real, 2) for one, real in zip(part, self.real, strict=True)]
                    for part in heads
                )
        shares: Sequence[Tensor | None] = [None] * len(self.rows)
        if self.share is not None:
            device = self.order.device
            line = torch.tensor([*chain.from_iterable(self.share)], device="cpu").to(device)
            shares = torch.split(line, [len(share) for share in self.share])
        parts = zip(query, key, value, biases, shares, reals, strict=True)
        return [
            BlockAttention(
                q, k, v, bias, 0, share=share, received=None, given=None, real=real, mask=None
            )
            for q, k, v, bias, share, real in parts
        ]

    def _mask(self, place: int, bias: Tensor, dtype: torch.dtype) -> Tensor:
        if (place, dtype) not in self.masks:
            self.masks[place, dtype] = mask_of(None, bias, dtype)
        return self.masks[place, dtype]


def _groups(lengths: Sequence[int], padded: int) -> list[list[int]]:
    """Numbers of segments that go together, the longest first, empty ones in none."""
    left = sorted((one for one in range(len(lengths)) if lengths[one]), key=lengths.__getitem__)
    left = left[::-1]
    if lengths[left[0]] * len(left) <= padded * sum(lengths):
        return [left]
    groups: list[list[int]] = []
    for one in left:
        if groups and lengths[groups[-1][0]] <= padded * lengths[one]:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _cleared(part: Tensor, real: Tensor, rows: int) -> Tensor:
    """Values `[S, ..., L, ...]`, 0 for padding; `rows` is the axis of L."""
    shape = [real.shape[0], *[1] * (part.dim() - 1)]
    shape[rows] = real.shape[1]
    return torch.where(real.view(shape), part, 0)


def _hidden(real: Tensor, bias: Tensor | None) -> Tensor:
    """A bias `[S, L]` with -inf for padding."""
    # a segment that no row is left of sees its padding, so that nothing becomes NaN
    seen = real | ~real.any(dim=1, keepdim=True)
    hidden = torch.zeros_like(seen, dtype=torch.float32).masked_fill(~seen, -torch.inf)
    return hidden if bias is None else bias + hidden


Within = tuple[Segments | Pictures, Sequence[Tensor | None]]
"""Segments of an attention, and what is added to key logits in those of every length."""
