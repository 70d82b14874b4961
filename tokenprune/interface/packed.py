"""Encoders that read pictures of any size as one sequence of rows, and what their adapters add."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.signals import BLOCK_VIEWS, Companions, View
from tokenprune.interface.sites import Grid


@dataclass(frozen=True)
class Packing:
    """How one call of a packed encoder lays out its pictures.

    A *unit* is what becomes one token behind the encoder: `members` rows that stand one behind the
    other. Units are counted through all pictures, each in raster order of its grid (t, h, w).

    Attributes:
        grids: units (t, h, w) of every picture or clip, in the order of the call.
        members: rows m of a unit.
        place: `[U]` int64, where each unit stands in the sequence; None if in the order in which
            units are counted.
    """

    grids: Sequence[Grid]
    members: int
    place: Tensor | None = None

    @property
    def units(self) -> int:
        """Units U of all pictures."""
        return sum(math.prod(grid) for grid in self.grids)


class PackedEncoderAdapter(EncoderAdapter):
    """A family of encoders that read all pictures of a call as one sequence `[R, D]`.

    The engine removes and merges whole units, member by member, so that what is made of a unit
    behind the encoder keeps its meaning. `EncoderSpec.packed` is True.

    The functions of a block get the sequence as a batch of one, `[1, R, D]`, and where they speak
    of the places of tokens, these are rows of the whole sequence: `arguments` gets `[R']`
    ascending. Companion tokens have no place in the sequence, so nothing supplies them.
    """

    supplies: ClassVar[frozenset[type[View]]] = BLOCK_VIEWS - {Companions}

    @abstractmethod
    def packing(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Packing:
        """How a call of `entry` lays out its pictures."""

    @abstractmethod
    def borders(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """`[S + 1]` rows at which the attention of a block is parted, the first one 0, the last R.

        Args:
            args: what the block was called with behind the hidden states.
            kwargs: the same, by name.
        """
