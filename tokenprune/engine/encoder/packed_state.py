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
from tokenprune.engine.encoder.order import Order
from tokenprune.engine.encoder.segments import Within
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.encoder.windows import Windows
from tokenprune.engine.lines import each, flat
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
        offset: the same, `[B, 1]` on the device; None if it is 0 for the only one.
    """

    state: EncoderState
    starts: Sequence[int]
    offset: Tensor | None = None


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
            key logits in each; further by the stacks whose dropped units are reconstructed.
        fulls: by these stacks, the order of all their units.
        loops: whether the engine runs the halves of all blocks once units are gone, with rows that
            stand stack by stack; see `PackedEncoderAdapter.loops`.
        windows: of the whole sequence, by the identity of the borders, which are kept with them.
    """

    stacks: Sequence[Stack]
    packing: Packing
    order: Order
    batched: bool = False
    shape: tuple[int, ...] = ()
    raw: bool = True
    passed: int = 1
    graph: bool = False
    handed: dict[tuple[object, ...], tuple[BlockCall, BlockCall]] = field(default_factory=dict)
    within: dict[tuple[object, ...], tuple[object, Within]] = field(default_factory=dict)
    fulls: dict[tuple[bool, ...], Order] = field(default_factory=dict)
    loops: bool = False
    windows: dict[int, tuple[object, Windows]] = field(default_factory=dict)

    @classmethod
    def begin(
        cls,
        packing: Packing,
        layout: EncoderSchedule,
        trace: Trace,
        seed: int,
        hidden: Tensor,
        *,
        batched: bool = False,
        graph: bool = False,
        loops: bool = False,
    ) -> PackedState:
        """State at the first block, whose input is `hidden` `[R, D]`, `[1, R, D]` or `[n, P, D]`.

        Args:
            packing: how the call lays out its pictures.
            layout: where the plan's encoder stages act; by the units of one picture or frame.
            trace: takes the pictures, in the order of the call.
            seed: the plan's.
            hidden: the input.
            batched: see `PackedEncoderAdapter`.
            graph: whether the call is traced into one graph.
            loops: see the class.
        """
        device = hidden.device
        # once, and not whenever units are put in order
        packing = packing.moved(device) if graph else packing.listed(device)
        stacks = _stacks(packing, layout, trace, seed, device)
        if not graph:
            for stack in stacks:
                stack.offset = _offset(stack.starts, device)
        whole = [stack.state.index for stack in stacks]
        order = ordered(stacks, packing, whole, batched=batched)
        loops = loops and not graph
        return cls(stacks, packing, order, batched, hidden.shape, graph=graph, loops=loops)

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
        self.order = self._ordered([stack.state.index for stack in self.stacks])
        self.handed, self.within, self.fulls = {}, {}, {}

    def sequence(self, hidden: Tensor) -> Tensor:
        """Hidden states in the shape of the first block's as the rows `[R, D]` of all units."""
        rows = hidden.flatten(0, -2)
        return rows[self.order.rows] if self.batched else rows

    @property
    def turned(self) -> bool:
        """Whether the engine runs the halves of every block, on rows that stand stack by stack."""
        return self.loops and self.order.stackwise

    def cut(self, block: BlockCall, order: Order | None = None) -> BlockCall:
        """A block's call with arguments for rows, one behind the other.

        Args:
            block: the call.
            order: of the rows; of those that are left by default.
        """
        if order is None:
            order = self.order
            if self.untouched and not self.batched:
                return block
        return self._handed(block, -1 if order is self.order else id(order), order.rows)

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
            args, kwargs = (block.turning if self.turned else block.arguments)(rows)
            self.handed[key] = block, block._replace(args=args, kwargs=kwargs)
        cut = self.handed[key][1]
        return block._replace(args=cut.args, kwargs=cut.kwargs)

    @property
    def frames(self) -> list[int]:
        """Where pictures and frames begin and end in the whole sequence."""
        members = self.packing.members
        starts = sorted(start for stack in self.stacks for start in stack.starts)
        return [*(start * members for start in starts), self.packing.units * members]

    def parted(self, borders: Tensor | Sequence[int] | None) -> Windows:
        """The windows of the whole sequence, by borders as the adapter gives them."""
        if id(borders) not in self.windows:
            made = Windows.of(borders, self.frames, self.order.rows.device)
            self.windows[id(borders)] = borders, made
        return self.windows[id(borders)][1]

    def lengths(self, order: Order) -> list[int]:
        """Rows of an order that are left of each picture or frame, as the sequence has them."""
        return [length for _, length in sorted(self._lengths(order))]

    def edges(self, order: Order) -> list[int]:
        """Where pictures and frames begin and end among the rows of an order."""
        frames = self._lengths(order)
        lengths = [length for _, length in (frames if order.stackwise else sorted(frames))]
        return list(accumulate(lengths, initial=0))

    def _lengths(self, order: Order) -> list[tuple[int, int]]:
        """First unit of every picture or frame, stack by stack, and how many rows are left."""
        shapes = zip(self.stacks, order.shapes, strict=True)
        return [(start, count * order.members) for s, (_, count) in shapes for start in s.starts]

    def whole(self, rows: Tensor, order: Order) -> Tensor:
        """Rows `[R, D]` in their places of the first block's hidden states, zeros elsewhere."""
        total = math.prod(self.shape[:-1])
        made = rows.new_zeros(total, rows.shape[-1]).index_copy(0, order.rows, rows)
        return made.view(*self.shape[:-1], -1)

    def ascending(self, hidden: Tensor) -> Tensor:
        """Rows `[R, D]` as they stand in the whole sequence, behind the blocks."""
        units, self.loops = self.order.units(hidden), False
        self.reorder()
        return self.order.by_row(units)

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
        self.packing, self.windows = self.packing.moved(device), {}
        for stack in self.stacks:
            stack.state.move(device)
            stack.offset = None if stack.offset is None else stack.offset.to(device)
        self.reorder()

    def full(self, hidden: Tensor, which: Sequence[bool]) -> tuple[Tensor, Order]:
        """The sequence with the dropped units of some stacks, reconstructed, in their places.

        Args:
            hidden: `[R, D]`.
            which: of which stacks; their dropped units can be reconstructed.
        """
        parts = self.order.unpack(hidden)
        for number, stack in enumerate(self.stacks):
            revival = stack.state.revival
            if which[number] and revival is not None:
                parts[number] = revival.full(parts[number], 0)
        order = self._full(which)
        return order.pack(parts), order

    def _full(self, which: Sequence[bool]) -> Order:
        """The order behind `full`, which many blocks have alike."""
        known = tuple(which)
        if known in self.fulls and not self.graph:
            return self.fulls[known]
        index = []
        for stack, full in zip(self.stacks, which, strict=True):
            revival = stack.state.revival
            index.append(revival.index if full and revival is not None else stack.state.index)
        self.fulls[known] = order = self._ordered(index)
        return order

    def _ordered(self, index: Sequence[Tensor]) -> Order:
        """The order of the units `index` `[B, K]` of every stack."""
        stackwise = self.batched or (self.loops and not self.untouched)
        return ordered(self.stacks, self.packing, index, batched=stackwise)


def _stacks(
    packing: Packing, layout: EncoderSchedule, trace: Trace, seed: int, device: torch.device
) -> list[Stack]:
    """Pictures of equal grids together, with all of their units; see `PackedState.begin`."""
    # the trace of a graph gives no numbers
    numbers = [(trace.begin(1, grid) or [0])[0] for grid in packing.grids]
    starts = list(accumulate(map(math.prod, packing.grids), initial=0))
    alike: dict[Grid, list[int]] = {}
    for picture, grid in enumerate(packing.grids):
        alike.setdefault(grid, []).append(picture)
    stacks = []
    # of all stacks views: further ones cost no operations
    units = torch.arange(max(h * w for _, h, w in alike), device=device)
    sizes = torch.ones(packing.units, device=device)
    for (frames, height, width), pictures in alike.items():
        count = height * width
        first = [starts[one] + frame * count for one in pictures for frame in range(frames)]
        index = units[:count].expand(len(first), count)
        state = EncoderState(
            sites=layout.sites(count),
            grid=(1, height, width),
            images=[numbers[one] for one in pictures for _ in range(frames)],
            prefix=0,
            size=sizes[: len(first) * count].view(len(first), count),
            index=index,
            seed=seed,
            videos=Videos((frames,) * len(pictures)) if frames > 1 else None,
            first=index,
            trace=trace,
        )
        stacks.append(Stack(state, first))
    return stacks


def _offset(first: Sequence[int], device: torch.device) -> Tensor | None:
    if list(first) == [0]:
        return None
    return torch.tensor(first, device="cpu").to(device)[:, None]


def ordered(
    stacks: Sequence[Stack], packing: Packing, index: Sequence[Tensor], *, batched: bool = False
) -> Order:
    """The order of the units `index` `[B, K]` of every stack."""
    shapes = [(len(own), own.shape[1]) for own in index]
    rows = packing.members_of(numbered(stacks, index))
    return Order.of(shapes, rows, ascending=not batched)


def numbered(stacks: Sequence[Stack], index: Sequence[Tensor]) -> Tensor:
    """`[n]` numbers among all units of the call of the units `index` `[B, K]` of every stack."""
    if all(stack.offset is not None or list(stack.starts) == [0] for stack in stacks):
        offsets = [stack.offset for stack in stacks]
        return flat([i if o is None else i + o for i, o in zip(index, offsets, strict=True)])
    units = flat(index)
    starts = [start for stack in stacks for start in stack.starts]
    return units + each(starts, [own.shape[1] for own in index for _ in own], units.device)
