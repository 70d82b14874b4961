"""What one pass through a packed encoder carries from block to block, and where its units stand.

A packed encoder runs on one sequence of rows `[R, D]`, or on a padded batch of pictures of any size
that becomes a sequence as soon as units are gone. Strategies see dense batches, so pictures of
equal grids form a *stack* `[B, N, m * D]`, in which the m members of a unit stand side by side.
Then a reduction of units is, with no more to say, one of their members: member j goes to member j.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from tokenprune.engine.encoder.attention import BlockCall
from tokenprune.engine.encoder.segments import Within
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.lines import each, flat, stacked
from tokenprune.engine.stages import EncoderSchedule
from tokenprune.engine.videos import Videos
from tokenprune.interface.packed import Packing
from tokenprune.interface.sites import Grid
from tokenprune.interface.trace import Trace


@dataclass
class Stack:
    """Pictures of equal grids, or the frames of clips of equal grids.

    Attributes:
        state: of their units; of clips, frame by frame.
        starts: number of each one's first unit among all units of the call.
    """

    state: EncoderState
    starts: Sequence[int]


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
    """

    shapes: Sequence[tuple[int, int]]
    members: int
    rows: Tensor
    member: Tensor | None
    back: Tensor | None

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
        members, flat = rows.shape[1], rows.flatten()
        if not ascending:
            return cls(shapes, members, flat, None, None)
        left, member = flat.sort()
        back = torch.empty_like(member).scatter(
            0, member, torch.arange(len(member), device=member.device)
        )
        return cls(shapes, members, left, member, back)

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
        """Where rows of the whole sequence, all of them left, stand."""
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


@dataclass
class PackedState:
    """State of one pass through a packed encoder.

    Attributes:
        stacks: its pictures by grid.
        packing: how they were laid out.
        order: of the units that are left.
        batched: see `PackedEncoderAdapter`.
        shape: of the hidden states at the first block: `[R, D]`, `[1, R, D]` or `[n, P, D]`.
        raw: whether hidden states still have that shape, because no unit was to leave yet; they
            are `[R, D]` from then on.
        passed: how many blocks were entered.
        graph: whether the call is traced into one graph, inside of which no value can be read.
        handed: what blocks are handed, cut to the rows that are left: many blocks are handed the
            same. By the identities of what it is made of, which is kept with it.
        within: in the same way, the segments within which attention stays, and what is added to
            key logits in each.
    """

    stacks: Sequence[Stack]
    packing: Packing
    order: Order
    batched: bool = False
    shape: tuple[int, ...] = ()
    raw: bool = True
    passed: int = 1
    graph: bool = False
    handed: dict[tuple[int, ...], tuple[BlockCall, BlockCall]] = field(default_factory=dict)
    within: dict[int, tuple[object, Within]] = field(default_factory=dict)

    @classmethod
    def begin(
        cls,
        packing: Packing,
        layout: EncoderSchedule,
        trace: Trace,
        seed: int,
        device: torch.device,
        *,
        batched: bool = False,
        shape: tuple[int, ...] = (),
        graph: bool = False,
    ) -> PackedState:
        """State at the first block.

        Args:
            packing: how the call lays out its pictures.
            layout: where the plan's encoder stages act; by the units of one picture or frame.
            trace: takes the pictures, in the order of the call.
            seed: the plan's.
            device: of the sequence.
            batched: see `PackedEncoderAdapter`.
            shape: of the hidden states.
            graph: whether the call is traced into one graph.
        """
        packing = packing.moved(device)  # once, and not whenever units are put in order
        # the trace of a graph gives no numbers
        numbers = [(trace.begin(1, grid) or [0])[0] for grid in packing.grids]
        sizes = (math.prod(grid) for grid in packing.grids)
        starts = list(accumulate(sizes, initial=0))
        alike: dict[Grid, list[int]] = {}
        for picture, grid in enumerate(packing.grids):
            alike.setdefault(grid, []).append(picture)
        stacks = []
        # of all stacks views: further ones cost no operations
        units = torch.arange(max(h * w for _, h, w in alike), device=device)
        sizes_of_all = torch.ones(packing.units, device=device)
        for (frames, height, width), pictures in alike.items():
            count = height * width
            first = [starts[one] + frame * count for one in pictures for frame in range(frames)]
            index = units[:count].expand(len(first), count)
            state = EncoderState(
                layout.sites(count),
                (1, height, width),
                [numbers[one] for one in pictures for _ in range(frames)],
                0,
                sizes_of_all[: len(first) * count].view(len(first), count),
                index,
                seed,
                videos=Videos((frames,) * len(pictures)) if frames > 1 else None,
                first=index,
                trace=trace,
            )
            stacks.append(Stack(state, first))
        whole = [stack.state.index for stack in stacks]
        order = ordered(stacks, packing, whole, batched=batched)
        return cls(stacks, packing, order, batched, shape, graph=graph)

    @property
    def untouched(self) -> bool:
        """Whether every unit is still there, in its own place."""
        return all(stack.state.untouched for stack in self.stacks)

    @property
    def counted(self) -> list[str]:
        """What the meter was told of tiles, before it is known how many pictures they are."""
        return list(dict.fromkeys(name for stack in self.stacks for name in stack.state.counted))

    def reorder(self) -> None:
        """Find the places of what is left after a reduction."""
        index = [stack.state.index for stack in self.stacks]
        self.order = ordered(self.stacks, self.packing, index, batched=self.batched)
        self.handed, self.within = {}, {}

    def sequence(self, hidden: Tensor) -> Tensor:
        """Hidden states in the shape of the first block's as the rows `[R, D]` of all units."""
        flat = hidden.flatten(0, -2)
        return flat[self.order.rows] if self.batched else flat

    def cut(self, block: BlockCall) -> BlockCall:
        """A block's call with arguments for the rows that are left, one behind the other."""
        if self.untouched and not self.batched:
            return block
        return self._handed(block, -1, self.order.rows)

    def cut_stacks(self, block: BlockCall) -> list[BlockCall]:
        """A block's calls with the pictures of every stack as a batch."""
        rows = self.order.split(self.order.rows)
        return [self._handed(block, number, own) for number, own in enumerate(rows)]

    def _handed(self, block: BlockCall, number: int, rows: Tensor) -> BlockCall:
        if self.graph:  # the compiler finds what is alike by itself
            args, kwargs = block.arguments(rows)
            return block._replace(args=args, kwargs=kwargs)
        key = number, *map(id, (*block.args, *block.kwargs, *block.kwargs.values()))
        if key not in self.handed:
            args, kwargs = block.arguments(rows)
            self.handed[key] = block, block._replace(args=args, kwargs=kwargs)
        return self.handed[key][1]._replace(block=block.block)

    @property
    def frames(self) -> list[int]:
        """Where pictures and frames begin and end in the whole sequence."""
        members = self.packing.members
        starts = sorted(start for stack in self.stacks for start in stack.starts)
        return [*(start * members for start in starts), self.packing.units * members]

    def edges(self, order: Order) -> list[int]:
        """Where pictures and frames begin and end among the rows of an order."""
        frames = [
            (start, count * order.members)
            for stack, (_, count) in zip(self.stacks, order.shapes, strict=True)
            for start in stack.starts
        ]
        lengths = [length for _, length in (frames if self.batched else sorted(frames))]
        return list(accumulate(lengths, initial=0))

    def whole(self, rows: Tensor, order: Order) -> Tensor:
        """Rows `[R, D]` in their places of the first block's hidden states, zeros elsewhere."""
        total = math.prod(self.shape[:-1])
        made = rows.new_zeros(total, rows.shape[-1]).index_copy(0, order.rows, rows)
        return made.view(*self.shape[:-1], -1)

    @property
    def numbers(self) -> Tensor:
        """`[K]` numbers of the units that are left among those of the call, stack by stack."""
        return numbered(self.stacks, [stack.state.index for stack in self.stacks])

    def units(self, values: Tensor) -> Tensor:
        """Values of units that stand stack by stack, `[K, d]`, in the places of all, `[U, d]`."""
        whole = values.new_zeros(self.packing.units, *values.shape[1:])
        return whole.index_copy(0, self.numbers.to(values.device), values)

    def move(self, device: torch.device) -> None:
        """Follow the hidden states to the device of the next block."""
        for stack in self.stacks:
            stack.state.move(device)
        self.reorder()

    def full(self, hidden: Tensor, which: Sequence[bool]) -> tuple[Tensor, Order]:
        """The sequence with the dropped units of some stacks, reconstructed, in their places.

        Args:
            hidden: `[R, D]`.
            which: of which stacks; their dropped units can be reconstructed.
        """
        parts, index = self.order.unpack(hidden), [stack.state.index for stack in self.stacks]
        for number, stack in enumerate(self.stacks):
            revival = stack.state.revival
            if which[number] and revival is not None:
                parts[number], index[number] = revival.full(parts[number], 0), revival.index
        order = ordered(self.stacks, self.packing, index, batched=self.batched)
        return order.pack(parts), order


def ordered(
    stacks: Sequence[Stack], packing: Packing, index: Sequence[Tensor], *, batched: bool = False
) -> Order:
    """The order of the units `index` `[B, K]` of every stack."""
    shapes = [(len(own), own.shape[1]) for own in index]
    rows = packing.members_of(numbered(stacks, index))
    return Order.of(shapes, rows, ascending=not batched)


def numbered(stacks: Sequence[Stack], index: Sequence[Tensor]) -> Tensor:
    """`[n]` numbers among all units of the call of the units `index` `[B, K]` of every stack."""
    units = flat(index)
    starts = [start for stack in stacks for start in stack.starts]
    return units + each(starts, [own.shape[1] for own in index for _ in own], units.device)
