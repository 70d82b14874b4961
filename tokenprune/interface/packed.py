"""Encoders that read pictures of any size together, and what their adapters add."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.calls import Arguments, Given
from tokenprune.interface.records import changed
from tokenprune.interface.signals import BLOCK_VIEWS, Companions, View
from tokenprune.interface.sites import Grid


def squares(grid: Grid, side: int, device: torch.device) -> tuple[Grid, Tensor]:
    """The grid of squares of patches, and `[U, side * side]` the patches of each, in raster order.

    Args:
        grid: of the patches, (t, h, w).
        side: rows and columns of a square.
        device: of the numbers.

    Raises:
        UnsupportedCallError: the squares don't fit the grid.
    """
    frames, height, width = grid
    if height % side or width % side:
        raise UnsupportedCallError(
            f"{height} x {width} patches are not made of squares of {side} x {side}.",
            where="pictures",
            remedy="Give pictures of sizes that the model's processor makes.",
        )
    units = frames, height // side, width // side
    patches = torch.arange(math.prod(grid), device=device)
    rows = patches.view(frames, units[1], side, units[2], side).transpose(2, 3)
    return units, rows.reshape(-1, side * side)


@dataclass(frozen=True)
class Packing:
    """How one call of a packed encoder lays out its pictures.

    A *unit* is what becomes one token behind the encoder: `members` rows. Units are counted through
    all pictures, each in raster order of its grid (t, h, w). The *sequence* is the rows of the
    call, one after the other; of a batch of pictures, the rows of the first one, then those of the
    second.

    Attributes:
        grids: units (t, h, w) of every picture or clip, in the order of the call.
        members: rows m of a unit.
        place: `[U]` int64, where each unit stands in the sequence, in units, if its members stand
            one behind the other; None if in the order in which units are counted.
        rows: `[U, m]` int64, the rows of each unit's members if they stand elsewhere, in the order
            in which what is behind the encoder reads them.
    """

    grids: Sequence[Grid]
    members: int
    place: Tensor | None = None
    rows: Tensor | None = None

    @property
    def units(self) -> int:
        """Units U of all pictures."""
        return sum(math.prod(grid) for grid in self.grids)

    def members_of(self, units: Tensor) -> Tensor:
        """Rows of units: `[...]` -> `[..., m]`."""
        if self.rows is not None:
            return self.rows.to(units.device)[units]
        place = units if self.place is None else self.place.to(units.device)[units]
        inside = torch.arange(self.members, device=units.device)
        return place[..., None] * self.members + inside

    def moved(self, device: torch.device) -> Packing:
        """The same with its tensors on a device."""
        place, rows = (
            part if part is None else part.to(device) for part in (self.place, self.rows)
        )
        return changed(self, place=place, rows=rows)

    def listed(self, device: torch.device) -> Packing:
        """The same on a device, with the rows of all units as a table: looking some up is cheap."""
        units = torch.arange(self.units, device=device)
        return changed(self, place=None, rows=self.moved(device).members_of(units))

    def grouped(self, side: int) -> Packing:
        """Squares of `side` x `side` units of one row each as units.

        Raises:
            UnsupportedCallError: a picture isn't made of such squares.
        """
        if side == 1:
            return self
        grids, rows, start = list[Grid](), list[Tensor](), 0
        for grid in self.grids:
            units, own = squares(grid, side, torch.device("cpu"))
            grids.append(units)
            rows.append(own + start)
            start += own.numel()
        rows_of_units = self.members_of(torch.cat(rows)).flatten(1)
        return Packing(grids, side**2, place=None, rows=rows_of_units)

    def clips(self, frames: Sequence[int]) -> Packing:
        """Pictures one behind the other as frames of clips.

        Args:
            frames: how many pictures each clip has.

        Raises:
            UnsupportedCallError: the frames of a clip have several sizes, or are other ones.
        """
        found, start = [], 0
        for count in frames:
            mine = self.grids[start : start + count]
            if len(set(mine)) != 1 or len(mine) != count:
                raise UnsupportedCallError(
                    f"the frames of a clip have the grids {list(mine)}, and there are {count}.",
                    where="clips",
                    remedy="Give clips whose frames have one size.",
                )
            found.append((count * mine[0][0], *mine[0][1:]))
            start += count
        return changed(self, grids=found)


class PackedEncoderAdapter(EncoderAdapter):
    """A family of encoders that read all pictures of a call as one sequence `[R, D]`.

    The engine removes and merges whole units, member by member, so that what is made of a unit
    behind the encoder keeps its meaning. `EncoderSpec.packed` is True.

    The functions of a block get the sequence as a batch of one, `[1, R, D]`, and where they speak
    of the places of tokens, these are rows of the whole sequence: `arguments` gets `[R']`
    ascending. Companion tokens have no place in the sequence, so nothing supplies them.

    Class attributes:
        batched: whether the blocks take the pictures as a batch, padded to the longest. As soon as
            units are gone, they are called with pictures of equal length at a time, `[B, L, D]`,
            and `arguments` gets `[B, L]`, or `[R']` for the functions of a block.
        raster: whether what stands behind the used blocks reads the rows of the whole sequence;
            those of units that are gone are zeros then.
        by_segments: whether blocks attend segment by segment, as the engine does, so that halves of
            a block give its very bits.
    """

    supplies: ClassVar[frozenset[type[View]]] = BLOCK_VIEWS - {Companions}
    batched: ClassVar[bool] = False
    raster: ClassVar[bool] = False
    by_segments: ClassVar[bool] = True

    @abstractmethod
    def packing(self, args: tuple[Any, ...], kwargs: Arguments) -> Packing:
        """How a call of `entry` lays out its pictures."""

    def foreseen(self, args: tuple[Any, ...], kwargs: Arguments) -> Given:
        """The arguments of a call of `entry` with what their values decide; as they are by default.

        Worked out in front of the call, and so in front of a compiled graph, inside of which no
        value can be read. Numbers that decide shapes go as text: a compiler makes a graph for each
        text, but takes a number that changes for one that may be any. A call of the entry's
        `forward` by itself comes without.

        Args:
            args: what `entry` is called with.
            kwargs: the same, by name.
        """
        return args, kwargs

    def inside(self, kwargs: Arguments, *, graph: bool) -> Arguments:
        """The arguments by name as `entry` takes them, without those that are for the adapter.

        Args:
            kwargs: what `entry` is called with, or what `foreseen` made of it.
            graph: whether the call is traced into one graph.
        """
        return kwargs

    def borders(self, args: tuple[Any, ...], kwargs: Arguments) -> Tensor | Sequence[int] | None:
        """S + 1 rows at which the attention of a block is parted, the first one 0, the last R.

        In a graph these are numbers, and of the whole sequence also where `arguments` cut the call.
        None where each picture, or each frame of a clip, is a segment.

        Args:
            args: what the block was called with behind the hidden states.
            kwargs: the same, by name.
        """
        return None

    def loops(self, block: nn.Module) -> bool:
        """Whether a block that is called as a whole attends to its segments one by one.

        Then the engine runs its halves behind the first unit that is gone, with all segments at
        once and the rows in an order of its own, for which it asks `turning`. A block whose halves
        would be refused or would compute something else gives False.

        Args:
            block: one of the blocks.
        """
        return False

    def turning(self, args: tuple[Any, ...], kwargs: Arguments, index: Tensor) -> Given:
        """What `rotate` reads of the arguments of a block, for rows `[R']` in any order.

        Args:
            args: what the block was called with behind the hidden states.
            kwargs: the same, by name.
            index: rows of the whole sequence.
        """
        return self.arguments(args, kwargs, index)

    def handed_on(self, output: Any, units: Callable[[Tensor], Tensor]) -> Any:
        """What `entry` gave, with rows for all units; for encoders that pool by themselves.

        Args:
            output: what `entry` returned of the units that are left.
            units: puts `[K, d]` of these in their places, `[U, d]`, zeros for the others.
        """
        return output
