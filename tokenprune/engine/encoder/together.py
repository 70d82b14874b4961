"""Carry out what was decided about the stacks of a packed encoder, in one step for all of them.

A strategy is asked stack by stack, since it sees dense batches. What it answers are places and
slots, and these are numbers: counted on through the stacks, they are one answer about one sample of
all units. So states, sizes, places, riders and signals of any number of stacks go through one
operation each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.lines import each, flat, stacked, starts
from tokenprune.interface.dense import Dense, Part
from tokenprune.interface.signals import WHOLE
from tokenprune.interface.tokens import Tokens
from tokenprune.interface.trace import Trace


@dataclass(frozen=True)
class Decided:
    """What a strategy decided about a stack.

    Attributes:
        state: of the stack, before that.
        tokens: as the strategy saw them.
        part: what becomes of them.
    """

    state: EncoderState
    tokens: Tokens
    part: Part

    @property
    def dense(self) -> Dense:
        """Where the tokens go."""
        assert self.part.dense is not None
        return self.part.dense

    @property
    def riders(self) -> dict[str, Tensor]:
        """Values left for later stages, by this one and by those before."""
        return {**self.state.riders, **self.part.riders}

    @property
    def signals(self) -> dict[str, Tensor]:
        """Captured signals that go with their tokens."""
        return {name: one for name, one in self.state.signals.items() if name not in WHOLE}

    @property
    def kind(self) -> tuple[object, ...]:
        """What stacks have in common that are carried out together."""
        dense, state = self.part.dense, self.state
        if dense is None:
            return ("stays",)
        carried = (*self.riders.items(), *self.signals.items())
        return (
            dense.form,
            _form(dense.weight),
            dense.weight is state.size,
            _form(dense.created),
            _form(state.entered),
            frozenset((name, _form(value)) for name, value in carried),
        )


def _form(value: Tensor | None) -> object:
    return None if value is None else (value.dtype, value.shape[2:])


def carry_out(decided: Sequence[Decided], units: Tensor) -> Tensor:
    """States, sizes, places, riders and signals of what is left of some stacks.

    Args:
        decided: of the stacks.
        units: `[n, m * D]` their states, one stack behind the other.

    Returns:
        The same of the units that are left.
    """
    first = decided[0].kind
    if len(decided) == 1 or first == ("stays",) or any(stack.kind != first for stack in decided):
        return flat(
            [stack.state.apply(stack.tokens, stack.part, stack.tokens.hidden) for stack in decided]
        )
    whole, part = _joined(decided)
    tokens = whole.tokens(units[None], decided[0].tokens.site, {})
    left = whole.apply(tokens, part, units[None])
    _give_back(decided, whole)
    return left[0]


def _joined(decided: Sequence[Decided]) -> tuple[EncoderState, Part]:
    """All stacks as the state of one sample, and what becomes of it."""
    first = decided[0]
    state = EncoderState(
        sites={},
        grid=first.state.grid,
        images=[],
        prefix=0,
        size=_one([stack.state.size for stack in decided]),
        index=_one([stack.state.index for stack in decided]),
        seed=first.state.seed,
        riders={name: _one([stack.riders[name] for stack in decided]) for name in first.riders},
        signals={name: _one([stack.signals[name] for stack in decided]) for name in first.signals},
        entered=_one_or_none([stack.state.entered for stack in decided]),
        trace=Trace(),  # in words, since a graph can't make a class's own default
    )
    anchor, slot = _counted([stack.dense for stack in decided])
    if first.dense.weight is first.state.size:
        weight: Tensor | None = state.size
    else:
        weight = _one_or_none([stack.dense.weight for stack in decided])
    created = _one_or_none([stack.dense.created for stack in decided])
    return state, Part(None, Dense(anchor, slot, weight, created, first.dense.form), {})


def _counted(parts: Sequence[Dense]) -> tuple[Tensor, Tensor]:
    """Anchors `[1, n]` and slots `[1, N]`, counted on through the samples of all stacks."""
    tokens = [part.slot.shape[1] for part in parts for _ in part.slot]
    slots = [part.length for part in parts for _ in part.slot]
    anchor, slot = flat([part.anchor for part in parts]), flat([part.slot for part in parts])
    anchor = anchor + each(starts(tokens), slots, anchor.device)
    counted = slot + each(starts(slots), tokens, slot.device)
    if not all(part.form == "merge" for part in parts):
        counted = torch.where(slot < 0, slot, counted)
    return anchor[None], counted[None]


def _give_back(decided: Sequence[Decided], whole: EncoderState) -> None:
    """Let every stack have its part of what is left, as views."""
    shapes = [(len(stack.dense.anchor), stack.dense.length) for stack in decided]

    def parts(value: Tensor | None) -> Sequence[Tensor | None]:
        return [None] * len(shapes) if value is None else stacked(value[0], shapes)

    bias = whole.biased[2] if whole.biased is not None else None
    fields = (whole.size, whole.index, whole.entered, bias)
    for stack, size, index, entered, own in zip(decided, *map(parts, fields), strict=True):
        assert size is not None
        assert index is not None
        stack.state.size, stack.state.index, stack.state.entered = size, index, entered
        stack.state.biased = None if own is None else (size, 0, own)
    for carried in ("riders", "signals"):
        values = {name: parts(value) for name, value in getattr(whole, carried).items()}
        for number, stack in enumerate(decided):
            mine = {name: value[number] for name, value in values.items()}
            setattr(stack.state, carried, {**getattr(stack.state, carried), **mine})


def _one(values: Sequence[Tensor]) -> Tensor:
    """Values `[B, N, ...]` of every stack as those of one sample, `[1, n, ...]`."""
    return flat(values)[None]


def _one_or_none(values: Sequence[Tensor | None]) -> Tensor | None:
    given = [value for value in values if value is not None]
    return _one(given) if given else None
