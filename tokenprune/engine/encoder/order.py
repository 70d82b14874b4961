"""Which rows are left of a packed sequence, and where the units of its stacks are among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.engine.lines import flat, stacked


@dataclass(frozen=True)
class Order:
    """Which rows are left of the sequence, and where the units of the stacks are among them.

    Attributes:
        shapes: pictures and units left of each, (B, K), of every stack.
        members: rows m of a unit.
        rows: `[R]` rows of the whole sequence that are left, in the order in which they stand.
        member: `[R]` which member of a unit stands there, counted through units and stacks; None if
            they stand as they are counted.
        back: `[R]` the inverse: where the members of the units of the stacks stand.
        stackwise: whether rows stand stack by stack, and not as in the whole sequence.
    """

    shapes: Sequence[tuple[int, int]]
    members: int
    rows: Tensor
    member: Tensor | None
    back: Tensor | None
    stackwise: bool

    @classmethod
    def of(
        cls, shapes: Sequence[tuple[int, int]], rows: Tensor, *, ascending: bool = True
    ) -> Order:
        """The order of units.

        Args:
            shapes: see the class.
            rows: `[n, m]` of their members in the whole sequence, counted through the stacks.
            ascending: whether rows stand as in the whole sequence; else stack by stack.
        """
        members, line = rows.shape[1], rows.flatten()
        if not ascending:
            return cls(shapes, members, line, None, None, stackwise=True)
        left, member = line.sort()
        back = torch.empty_like(member).scatter(
            0, member, torch.arange(len(member), device=member.device)
        )
        return cls(shapes, members, left, member, back, stackwise=False)

    @property
    def place(self) -> Tensor:
        """`[n]` places in the whole sequence of units left whose members are neighbours."""
        return self.rows[:: self.members] // self.members

    def units(self, hidden: Tensor) -> Tensor:
        """The rows `[R, D]` unit by unit, counted through the stacks: `[n, m * D]`."""
        return self._by_unit(hidden).flatten(1)

    def by_row(self, units: Tensor) -> Tensor:
        """The inverse of `units`: `[n, m * D]` -> `[R, D]`."""
        return self._by_row(torch.unflatten(units, 1, (self.members, -1)).flatten(0, 1))

    def unpack(self, hidden: Tensor) -> list[Tensor]:
        """The rows `[R, D]` as stacks `[B, K, m * D]`."""
        return self.stacked(self.units(hidden))

    def pack(self, parts: Sequence[Tensor]) -> Tensor:
        """Stacks `[B, K, m * D]` as rows `[R, D]`."""
        return self.by_row(flat(parts))

    def spread(self, values: Tensor) -> Tensor:
        """A value for every unit, `[n]`, as one for every row, `[R]`."""
        return self._by_row(values.repeat_interleave(self.members))

    def means(self, values: Tensor) -> list[Tensor]:
        """Values of rows `[R, ...]` as means over the members of units, `[B, K, ...]` each."""
        return self.stacked(self._by_unit(values).mean(dim=1))

    def split(self, values: Tensor) -> list[Tensor]:
        """Values that stand stack by stack, `[R, ...]`, of every picture: `[B, K * m, ...]`."""
        counts = [batch * count * self.members for batch, count in self.shapes]
        parts = torch.split(values, counts)
        return [
            torch.unflatten(p, 0, (b, -1)) for p, (b, _) in zip(parts, self.shapes, strict=True)
        ]

    def find(self, rows: Tensor) -> Tensor:
        """Places `[n]` of rows `[n]` of the whole sequence among those that are left; all are."""
        ordered, at = self.rows.sort()
        return at[torch.searchsorted(ordered, rows)]

    def _by_unit(self, values: Tensor) -> Tensor:
        """`[R, ...]` -> `[n, m, ...]`, counted through the stacks."""
        counted = values if self.back is None else values[self.back]
        return torch.unflatten(counted, 0, (-1, self.members))

    def _by_row(self, counted: Tensor) -> Tensor:
        """The inverse of `_by_unit`, without its last step."""
        return counted if self.member is None else counted[self.member]

    def stacked(self, units: Tensor) -> list[Tensor]:
        """Values of units `[n, ...]` as views `[B, K, ...]`, one for every stack."""
        return stacked(units, self.shapes)
