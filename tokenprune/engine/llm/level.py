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

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenprune import ops


@dataclass(frozen=True)
class Level:
    """The sequence as it stands after one shortening; all `[B, T]` by slot, unless said.

    Rows that keep fewer tokens than the longest one start with dummies, which no token sees.

    Attributes:
        place: prompt place of every slot.
        column: input column of every slot.
        source: slot in the sequence before this shortening.
        valid: False for padding and dummies.
        padded: whether any slot isn't valid.
        shift: tokens that were removed in front of every slot: of the user's sequence for the
            LLM's input, and of the LLM's input for what layers see.
        removed: the same for the whole row, `[B]`.
    """

    place: Tensor
    column: Tensor
    source: Tensor
    valid: Tensor
    padded: bool
    shift: Tensor
    removed: Tensor

    @property
    def length(self) -> int:
        """Number of slots T."""
        return self.place.shape[1]

    def entered(self) -> Level:
        """As the LLM's input: its slots are the input columns."""
        own = torch.arange(self.length, device=self.column.device)
        return replace(self, column=own.expand_as(self.column))

    def recounted(self) -> Level:
        """The same sequence with nothing removed so far."""
        none = torch.zeros_like
        return replace(self, shift=none(self.shift), removed=none(self.removed))

    def of_rows(self, rows: Tensor) -> Level:
        """The same of some rows: `[n]` their numbers, or `[B]` bool."""
        rows = rows.to(self.place.device)
        mine = {name: value[rows] for name, value in vars(self).items() if name != "padded"}
        return replace(self, **mine)

    def cropped(self, count: int) -> Level:
        """Without the last `count` slots."""
        names = ("place", "column", "source", "valid", "shift")
        return replace(self, **{name: getattr(self, name)[:, :-count] for name in names})

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
            shift=torch.cat((self.shift, self.removed[:, None].expand(-1, tail)), dim=1),
        )


def whole(valid: Tensor) -> Level:
    """The user's own sequence, nothing removed; `valid` `[B, T]` is False for padding."""
    places = torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)
    none = torch.zeros_like(places)
    return Level(places, places, places, valid, not bool(valid.all()), none, none[:, 0])


def shorten(before: Level, survive: Tensor) -> Level:
    """The level that keeps some slots of another.

    Args:
        before: the sequence so far.
        survive: `[B, T]` True for slots that stay; it must be False for padding.
    """
    longest = max(int(survive.sum(dim=1).max()), 1)
    # a stable sort puts survivors last, in their order; of shorter rows the end of the others comes
    # along in front, as dummies
    order = torch.sort(survive.to(torch.int8), dim=1, stable=True).indices
    source = order[:, order.shape[1] - longest :]
    valid = survive.gather(1, source)
    gone = before.valid & ~survive
    shift = before.shift + torch.cumsum(gone, dim=1)
    return Level(
        place=before.place.gather(1, source),
        column=before.column.gather(1, source),
        source=source,
        valid=valid,
        padded=not bool(valid.all()),
        shift=shift.gather(1, source),
        removed=before.removed + gone.sum(dim=1),
    )


def renumbered(level: Level, length: int) -> Tensor:
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
    return made.scatter(1, of.masked_fill(~level.valid, length), slots)


def take(states: Tensor, index: Tensor, axis: int = 1) -> Tensor:
    """Entries `index` `[B, K]` of `[B or 1, T, ...]` states, `[B, K, ...]`.

    Args:
        states: what has an entry for each token.
        index: of each sample.
        axis: where the T tokens stand; the batch is the axis before it. Of position ids
            `[3, B, T]` it is the last one.
    """
    axis %= states.dim()
    if axis != 1:
        front = states.movedim((axis - 1, axis), (0, 1))
        return take(front, index).movedim((0, 1), (axis - 1, axis))
    index = index.to(states.device)
    if states.shape[0] != index.shape[0]:
        states = states.expand(index.shape[0], *states.shape[1:])
    return ops.take(states, index)


def spread(states: Tensor, level: Level, length: int) -> Tensor:
    """States `[B, T, D]` of a level at the prompt places, `[B, length, D]`.

    A removed token's place gets the state of the nearest kept token before it, which is what
    the shortened model predicts from there on; zeros if there is none.
    """
    place, valid = level.place.to(states.device), level.valid.to(states.device)
    # 1 + slot at every kept token's place, 0 at the others; the running maximum carries it on to
    # the gaps behind, because slots ascend with places
    slots = torch.arange(1, level.length + 1, device=states.device).expand_as(place)
    marks = place.new_zeros(place.shape[0], length)
    marks = marks.scatter_reduce(1, place, slots.masked_fill(~valid, 0), "amax")
    nearest = marks.cummax(dim=1).values
    filled = take(states, (nearest - 1).clamp(min=0))
    return filled.masked_fill((nearest == 0)[..., None], 0)


def _append(places: Tensor, tail: int, start: int) -> Tensor:
    more = torch.arange(start, start + tail, device=places.device)
    return torch.cat((places, more.expand(places.shape[0], -1)), dim=1)
