"""What one pass through a packed encoder carries from block to block, and where its units stand.

A packed encoder runs on one sequence of rows `[R, D]`. Strategies see dense batches, so pictures of
equal grids form a *stack* `[B, N, m * D]`, in which the m members of a unit stand side by side.
Then a reduction of units is, with no more to say, one of their members: member j goes to member j.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from tokenprune.engine.encoder.attention import BlockCall
from tokenprune.engine.encoder.state import EncoderState
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
        first: `[B]` number of each one's first unit among all units of the call.
    """

    state: EncoderState
    first: Tensor


@dataclass(frozen=True)
class Order:
    """Where the units that are left of all stacks stand in the sequence.

    Attributes:
        shapes: pictures and units left of each, (B, K), of every stack.
        members: rows m of a unit.
        place: `[n]` places in the whole sequence that units are left of, ascending.
        units: `[n]` which unit stands there, counted through the stacks.
        back: `[n]` the inverse: where the units of the stacks stand.
    """

    shapes: Sequence[tuple[int, int]]
    members: int
    place: Tensor
    units: Tensor
    back: Tensor

    @classmethod
    def of(cls, places: Sequence[Tensor], members: int) -> Order:
        """The order of units whose places in the whole sequence are `[B, K]` for every stack."""
        place, units = torch.cat([part.flatten() for part in places]).sort()
        back = torch.empty_like(units).scatter(
            0, units, torch.arange(len(units), device=units.device)
        )
        return cls([(len(p), p.shape[1]) for p in places], members, place, units, back)

    @cached_property
    def rows(self) -> Tensor:
        """`[R]` rows of the whole sequence that are left, ascending."""
        inside = torch.arange(self.members, device=self.place.device)
        return (self.place[:, None] * self.members + inside).flatten()

    def unpack(self, hidden: Tensor) -> list[Tensor]:
        """The sequence `[R, D]` as stacks `[B, K, m * D]`."""
        return self._stacked(torch.unflatten(hidden, 0, (-1, self.members)).flatten(1))

    def pack(self, parts: Sequence[Tensor]) -> Tensor:
        """Stacks `[B, K, m * D]` as the sequence `[R, D]`."""
        flat = torch.cat([part.flatten(0, 1) for part in parts])[self.units]
        return torch.unflatten(flat, 1, (self.members, -1)).flatten(0, 1)

    def spread(self, values: Sequence[Tensor]) -> Tensor:
        """A value for every unit, `[B, K]` for every stack, as one for every row, `[R]`."""
        flat = torch.cat([value.flatten() for value in values])[self.units]
        return flat.repeat_interleave(self.members)

    def means(self, values: Tensor) -> list[Tensor]:
        """Values of rows `[R, ...]` as means over the members of units, `[B, K, ...]` each."""
        return self._stacked(torch.unflatten(values, 0, (-1, self.members)).mean(dim=1))

    def _stacked(self, units: Tensor) -> list[Tensor]:
        counts = [batch * count for batch, count in self.shapes]
        parts = torch.split(units[self.back], counts)
        return [torch.unflatten(p, 0, shape) for p, shape in zip(parts, self.shapes, strict=True)]


@dataclass
class PackedState:
    """State of one pass through a packed encoder.

    Attributes:
        stacks: its pictures by grid.
        packing: how they were laid out.
        order: of the units that are left.
        passed: how many blocks were entered.
        handed: what blocks are handed, cut to the rows that are left: many blocks are handed the
            same. By the identities of what it is made of, which is kept with it.
    """

    stacks: Sequence[Stack]
    packing: Packing
    order: Order
    passed: int = 1
    handed: dict[tuple[int, ...], tuple[BlockCall, BlockCall]] = field(default_factory=dict)

    @classmethod
    def begin(
        cls,
        packing: Packing,
        layout: EncoderSchedule,
        trace: Trace,
        seed: int,
        device: torch.device,
    ) -> PackedState:
        """State at the first block.

        Args:
            packing: how the call lays out its pictures.
            layout: where the plan's encoder stages act; by the units of one picture or frame.
            trace: takes the pictures, in the order of the call.
            seed: the plan's.
            device: of the sequence.
        """
        if packing.place is not None:  # moved once, and not whenever units are put in order
            packing = replace(packing, place=packing.place.to(device))
        numbers = [trace.begin(1, grid)[0] for grid in packing.grids]
        sizes = (math.prod(grid) for grid in packing.grids)
        starts = list(accumulate(sizes, initial=0))
        alike: dict[Grid, list[int]] = {}
        for picture, grid in enumerate(packing.grids):
            alike.setdefault(grid, []).append(picture)
        stacks = []
        for (frames, height, width), pictures in alike.items():
            count = height * width
            first = [starts[one] + frame * count for one in pictures for frame in range(frames)]
            index = torch.arange(count, device=device).expand(len(first), count)
            state = EncoderState(
                layout.sites(count),
                (1, height, width),
                [numbers[one] for one in pictures for _ in range(frames)],
                0,
                torch.ones(len(first), count, device=device),
                index,
                seed,
                videos=Videos((frames,) * len(pictures)) if frames > 1 else None,
                first=index,
                trace=trace,
            )
            stacks.append(Stack(state, torch.tensor(first, device=device)))
        return cls(stacks, packing, ordered(stacks, packing, [s.state.index for s in stacks]))

    @property
    def untouched(self) -> bool:
        """Whether every unit is still there, in its own place."""
        return all(stack.state.untouched for stack in self.stacks)

    def reorder(self) -> None:
        """Find the places of what is left after a reduction."""
        index = [stack.state.index for stack in self.stacks]
        self.order = ordered(self.stacks, self.packing, index)
        self.handed = {}

    def cut(self, block: BlockCall) -> BlockCall:
        """A block's call with arguments for the rows that are left."""
        if self.untouched:
            return block
        key = tuple(map(id, (*block.args, *block.kwargs, *block.kwargs.values())))
        if key not in self.handed:
            args, kwargs = block.arguments(self.order.rows)
            self.handed[key] = block, replace(block, args=args, kwargs=kwargs)
        return replace(self.handed[key][1], block=block.block)

    def move(self, device: torch.device) -> None:
        """Follow the hidden states to the device of the next block."""
        for stack in self.stacks:
            stack.state.move(device)
            stack.first = stack.first.to(device)
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
        order = ordered(self.stacks, self.packing, index)
        return order.pack(parts), order


def ordered(stacks: Sequence[Stack], packing: Packing, index: Sequence[Tensor]) -> Order:
    """The order of the units `index` `[B, K]` of every stack."""
    places = []
    for stack, own in zip(stacks, index, strict=True):
        unit = stack.first[:, None] + own
        places.append(unit if packing.place is None else packing.place.to(unit.device)[unit])
    return Order.of(places, packing.members)
