"""Shorten sequences row by row and spread them out again: index arithmetic, nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Level:
    """The sequence as it stands after one shortening, as `[B, T]` slots.

    Rows that keep fewer tokens than the longest one start with dummies.

    Attributes:
        full: place of every slot in the user's sequence.
        base: column of every slot in the LLM's input.
        source: column of every slot in the sequence before this shortening.
        valid: False for padding and dummies.
        padded: whether any slot isn't valid.
        shift: tokens of the LLM's input removed in front of every slot.
        removed: tokens of the LLM's input removed in the whole row, `[B]`.
    """

    full: Tensor
    base: Tensor
    source: Tensor
    valid: Tensor
    padded: bool
    shift: Tensor
    removed: Tensor

    @property
    def length(self) -> int:
        """Number of slots T."""
        return self.full.shape[1]

    def restarted(self) -> Level:
        """As the LLM's input: its own columns, nothing removed so far."""
        own = torch.arange(self.length, device=self.base.device).expand_as(self.base)
        none = torch.zeros_like(self.shift)
        return replace(self, base=own, shift=none, removed=torch.zeros_like(self.removed))

    def longer(self, tail: int, full: int, base: int, source: int) -> Level:
        """With `tail` text tokens appended to sequences of the lengths given."""
        return replace(
            self,
            full=_append(self.full, tail, full),
            base=_append(self.base, tail, base),
            source=_append(self.source, tail, source),
            valid=torch.cat((self.valid, self.valid.new_ones(self.valid.shape[0], tail)), dim=1),
            shift=torch.cat((self.shift, self.removed[:, None].expand(-1, tail)), dim=1),
        )


def whole(valid: Tensor) -> Level:
    """The user's own sequence, nothing removed; `valid` `[B, T]` is False for padding."""
    places = torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)
    none = torch.zeros_like(places)
    return Level(places, places, places, valid, not bool(valid.all()), none, none[:, 0])


def shorten(before: Level, survive: Tensor) -> Level:
    """The level that keeps the slots where `survive` `[B, T]`; it must be False for padding."""
    longest = max(int(survive.sum(dim=1).max()), 1)
    order = torch.sort(survive.to(torch.int8), dim=1, stable=True).indices
    source = order[:, order.shape[1] - longest :]
    valid = survive.gather(1, source)
    gone = before.valid & ~survive
    shift = before.shift + torch.cumsum(gone, dim=1)
    return Level(
        full=before.full.gather(1, source),
        base=before.base.gather(1, source),
        source=source,
        valid=valid,
        padded=not bool(valid.all()),
        shift=shift.gather(1, source),
        removed=before.removed + gone.sum(dim=1),
    )


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
    shape = (*index.shape, *states.shape[2:])
    return states.gather(1, index.view(*index.shape, *[1] * (states.dim() - 2)).expand(shape))


def spread(states: Tensor, level: Level, length: int) -> Tensor:
    """States `[B, T, D]` of a level at the places of the user's sequence, `[B, length, D]`.

    A removed token's place gets the state of the nearest kept token before it, which is what
    the shortened model predicts from there on; zeros if there is none.
    """
    full, valid = level.full.to(states.device), level.valid.to(states.device)
    slots = torch.arange(1, level.length + 1, device=states.device).expand_as(full)
    marks = full.new_zeros(full.shape[0], length)
    marks = marks.scatter_reduce(1, full, slots.masked_fill(~valid, 0), "amax")
    nearest = marks.cummax(dim=1).values
    found = take(states, (nearest - 1).clamp(min=0))
    return found.masked_fill((nearest == 0)[..., None], 0)


def _append(places: Tensor, tail: int, start: int) -> Tensor:
    more = torch.arange(start, start + tail, device=places.device)
    return torch.cat((places, more.expand(places.shape[0], -1)), dim=1)
