"""Shorten sequences row by row and spread them out again: index arithmetic, nothing else.

Three words for an index, and no others, stand in everything about the LLM:

- *prompt place*: of a token in the sequence that the user passed;
- *input column*: of a token in what the LLM is given, which a pre-LLM stage may have shortened;
- *slot*: of a token in the sequence at hand, in front of or inside one layer.

One row of a batch, of which two visual tokens are dropped in front of the LLM and one more in front
of layer 2. Another row keeps one token more each time, so this one starts with a dummy:

    prompt place           0    1    2    3    4    5    6    7
    user's sequence       <s>  v0   v1   v2   v3    a    b    c
                                x         x                          dropped in front of the LLM
    input column      0    1         2         3    4    5    6
    LLM's input       .   <s>       v1        v3    a    b    c      layers 0 and 1: slot = column
                                               x                     dropped in front of layer 2
    slot              0    1         2              3    4    5
    in layer 2        .   <s>       v1              a    b    c

In layer 2, text `a` has slot 3, input column 4 and prompt place 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenprune import ops
from tokenprune.engine.lines import sent


@dataclass(frozen=True)
class Gone:
    """How many tokens a shortened sequence lacks.

    Attributes:
        shift: `[B, T]` tokens that were removed in front of every slot.
        removed: `[B]` the same for the whole row.
    """

    shift: Tensor
    removed: Tensor

    def none(self) -> Gone:
        """Nothing removed so far."""
        return Gone(torch.zeros_like(self.shift), torch.zeros_like(self.removed))

    def longer(self, tail: int) -> Gone:
        """With `tail` tokens appended."""
        more = self.removed[:, None].expand(-1, tail)
        return replace(self, shift=torch.cat((self.shift, more), dim=1))

    def shortened(self, gone: Tensor, source: Tensor) -> Gone:
        """Without further tokens.

        Args:
            gone: `[B, T]` True for slots that leave.
            source: `[B, K]` slots of what stays.
        """
        shift = self.shift + torch.cumsum(gone, dim=1)
        return Gone(shift.gather(1, source), self.removed + gone.sum(dim=1))


@dataclass(frozen=True)
class Level:
    """The sequence as it stands after one shortening; all `[B, T]` by slot, unless said.

    Rows that keep fewer tokens than the longest one start with dummies, which no token sees.

    Attributes:
        place: prompt place of every slot.
        column: input column of every slot.
        source: slot in the sequence before this shortening.
        valid: False for padding and dummies.
        counts: valid slots of every row; empty behind a cache, where nobody asks.
        padded: whether any slot isn't valid.
        gone: what was removed: of the user's sequence for the LLM's input, and of the LLM's input
            for what layers see; None where survivors keep their numbers, so that nobody asks.
        complete: whether it is the user's own sequence, so that places, columns and slots are one.
    """

    place: Tensor
    column: Tensor
    source: Tensor
    valid: Tensor
    counts: tuple[int, ...]
    padded: bool
    gone: Gone | None = None
    complete: bool = False

    @classmethod
    def of(
        cls,
        slots: tuple[Tensor, Tensor, Tensor],
        valid: Tensor,
        counts: Sequence[int],
        gone: Gone | None,
    ) -> Level:
        """A sequence of which it is known how many slots are valid, with nothing to wait for.

        Args:
            slots: `place`, `column` and `source`.
            valid: `[B, T]`.
            counts: valid slots of every row.
            gone: what was removed.
        """
        return cls(*slots, valid, tuple(counts), min(counts) < valid.shape[1], gone)

    @property
    def length(self) -> int:
        """Number of slots T."""
        return self.place.shape[1]

    @property
    def ahead(self) -> Tensor:
        """`[B, T]` tokens that were removed in front of every slot, if survivors are renumbered."""
        assert self.gone is not None
        return self.gone.shift

    @property
    def removed(self) -> Tensor:
        """`[B, 1]` tokens that were removed of every row, if survivors are renumbered."""
        assert self.gone is not None
        return self.gone.removed[:, None]

    def entered(self) -> Level:
        """As the LLM's input: its slots are the input columns."""
        own = torch.arange(self.length, device=self.column.device)
        return replace(self, column=own.expand_as(self.column))

    def recounted(self) -> Level:
        """The same sequence with nothing removed so far."""
        return self if self.gone is None else replace(self, gone=self.gone.none())

    def of_rows(self, rows: Tensor) -> Level:
        """The same of some rows: `[n]` their numbers, or `[B]` bool."""
        rows = rows.to(self.place.device)
        mine = {name: getattr(self, name)[rows] for name in ("place", "column", "source", "valid")}
        gone = self.gone and Gone(self.gone.shift[rows], self.gone.removed[rows])
        return replace(self, **mine, counts=(), gone=gone)

    def cropped(self, count: int) -> Level:
        """Without the last `count` slots."""
        names = ("place", "column", "source", "valid")
        mine = {name: getattr(self, name)[:, :-count] for name in names}
        gone = self.gone and replace(self.gone, shift=self.gone.shift[:, :-count])
        return replace(self, **mine, counts=(), gone=gone)

    def longer(self, tail: int, prompt: int, entry: int, before: int) -> Level:
        """With `tail` text tokens appended.

        Args:
            tail: how many.
            prompt: length of the user's sequence without them.
            entry: length of the LLM's input without them.
            before: length of the sequence before this shortening, without them.
        """
        return replace(
            self,
            place=_append(self.place, tail, prompt),
            column=_append(self.column, tail, entry),
            source=_append(self.source, tail, before),
            valid=torch.cat((self.valid, self.valid.new_ones(self.valid.shape[0], tail)), dim=1),
            counts=(),
            gone=self.gone and self.gone.longer(tail),
        )


def whole(valid: Tensor, counts: Sequence[int], *, renumbers: bool) -> Level:
    """The user's own sequence, nothing removed.

    Args:
        valid: `[B, T]` False for padding.
        counts: how many are valid in every row.
        renumbers: whether survivors are renumbered, here or behind.
    """
    places = torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)
    gone = Gone(torch.zeros_like(places), torch.zeros_like(places[:, 0])) if renumbers else None
    return replace(Level.of((places, places, places), valid, counts, gone), complete=True)


def entered(valid: Tensor, survive: Tensor, counts: Sequence[int], *, renumbers: bool) -> Level:
    """The LLM's input, which keeps some places of the user's sequence.

    Args:
        valid: `[B, T]` False for padding.
        survive: `[B, T]` True for places that stay; it must be False for padding.
        counts: how many stay of every row.
        renumbers: whether survivors are renumbered, here or behind.
    """
    source = _order(survive, counts)
    own = torch.arange(source.shape[1], device=source.device).expand_as(source)
    gone = None
    if renumbers:
        none = torch.zeros(valid.shape, dtype=torch.int64, device=valid.device)
        gone = Gone(none, none[:, 0]).shortened(valid & ~survive, source)
    return Level.of((source, own, source), survive.gather(1, source), counts, gone)


def shorten(before: Level, survive: Tensor, counts: Sequence[int]) -> Level:
    """The level that keeps some slots of another.

    Args:
        before: the sequence so far.
        survive: `[B, T]` True for slots that stay; it must be False for padding.
        counts: how many stay of every row.
    """
    source = _order(survive, counts)
    gone = before.gone and before.gone.shortened(before.valid & ~survive, source)
    # in the user's own sequence a slot is a place and a column
    place = source if before.complete else before.place.gather(1, source)
    column = place if before.column is before.place else before.column.gather(1, source)
    return Level.of((place, column, source), survive.gather(1, source), counts, gone)


def _order(survive: Tensor, counts: Sequence[int]) -> Tensor:
    """`[B, K]` slots that stay, in their order.

    A stable sort puts survivors last; of shorter rows the end of the others comes along in front,
    as dummies.
    """
    order = torch.sort(survive.to(torch.int8), dim=1, stable=True).indices
    return order[:, order.shape[1] - max(*counts, 1) :]


def new_slots(level: Level, length: int) -> Tensor:
    """`[B, length + 1]` slot of every slot in the sequence before a level's shortening.

    Only those of survivors mean anything.

    Args:
        level: the sequence after it.
        length: of the sequence before.
    """
    return _found(level, level.source, length)


def held(level: Level, length: int) -> Tensor:
    """`[B, length + 1]` slot of every prompt place of a prompt that is `length` tokens long."""
    return _found(level, level.place, length)


def _found(level: Level, of: Tensor, length: int) -> Tensor:
    slots = torch.arange(level.length, device=of.device).expand_as(of)
    # one entry more than there are: dummies write there, not over a survivor
    made = slots.new_zeros(len(of), length + 1)
    return made.scatter(1, of.masked_fill(~level.valid, length) if level.padded else of, slots)


def take(states: Tensor, index: Tensor, axis: int = 1) -> Tensor:
    """Entries `index` `[B, K]` of `[B or 1, T, ...]` states, `[B, K, ...]`.

    Args:
        states: what has an entry for each token.
        index: of each sample.
        axis: where the T tokens stand; the batch is the axis before it. Of position ids
            `[3, B, T]` it is the last one.
    """
    index = sent(index, states.device)
    axis %= states.dim()
    if axis == states.dim() - 1:  # numbers of tokens
        states = states.expand(*states.shape[:-2], *index.shape[:1], -1)
        return states.gather(-1, index.expand(*states.shape[:-2], -1, -1))
    if axis != 1:
        front = states.movedim((axis - 1, axis), (0, 1))
        return take(front, index).movedim((0, 1), (axis - 1, axis))
    if states.shape[0] != index.shape[0]:
        states = states.expand(index.shape[0], *states.shape[1:])
    return ops.take(states, index)


def spread(states: Tensor, level: Level, length: int, *, begun: bool = False) -> Tensor:
    """States of a level at the prompt places, `[B, length, D]`.

    A removed token's place gets the state of the nearest kept token before it, which is what
    the shortened model predicts from there on; zeros if there is none.

    Args:
        states: `[B, T, D]`.
        level: the sequence that they are of.
        length: tokens of the prompt.
        begun: whether the first token of every row is known to be there.
    """
    place, valid = sent(level.place, states.device), sent(level.valid, states.device)
    # 1 + slot at every kept token's place, 0 at the others; the running maximum carries it on to
    # the gaps behind, because slots ascend with places; where the first token is there, its slot is
    # that of no gap but those behind it, so that slots count from 0
    first = 0 if begun else 1
    slots = torch.arange(first, level.length + first, device=states.device).expand_as(place)
    slots = slots.masked_fill(~valid, 0) if level.padded else slots
    marks = place.new_zeros(place.shape[0], length).scatter(1, place, slots)
    nearest = marks.cummax(dim=1).values
    if begun:
        return take(states, nearest)
    filled = take(states, (nearest - 1).clamp(min=0))
    return filled.masked_fill((nearest == 0)[..., None], 0)


def _append(places: Tensor, tail: int, start: int) -> Tensor:
    more = torch.arange(start, start + tail, device=places.device)
    return torch.cat((places, more.expand(places.shape[0], -1)), dim=1)
