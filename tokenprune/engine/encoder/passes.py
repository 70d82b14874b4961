"""A pass through an encoder: how it was asked for, and what the call's values have to fulfil."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokenprune.engine.call import CallState
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.calls import Arguments


class EntryCall(NamedTuple):
    """One call of the module that runs an encoder's blocks.

    Attributes:
        original: the method that was called; an encoder may have several that run its blocks.
        args: what it was called with.
        kwargs: the same, by name.
    """

    original: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Arguments


@dataclass
class Pass:
    """Stands in a call's states while the encoder runs.

    Attributes:
        sound: in a compiled graph, whether the call's values are as they have to be, `[]`.
    """

    sound: Tensor | None = None


def in_pass(call: CallState) -> bool:
    """Whether the encoder is running in a call."""
    return call.state(Pass) is not None


def demand(call: CallState, adapter: EncoderAdapter, entry: str, given: EntryCall) -> Pass:
    """Hold a call's values to what they have to fulfil; a graph only notes whether they do.

    Args:
        call: the running call.
        adapter: the encoder's family.
        entry: class of the module that runs the blocks, for errors.
        given: how the encoder was called.
    """
    found = Pass()
    for one in adapter.demands(given.args, given.kwargs):
        if call.compiled:
            held = one.fulfilled
            found.sound = held if found.sound is None else found.sound & held
            continue
        error = UnsupportedCallError(one.problem, where=entry, remedy=one.remedy)
        call.conditions.require(one.fulfilled, error)
    return found


def sound(call: CallState, hidden: Tensor) -> Tensor:
    """What leaves the encoder: NaN where a graph was given values that it can't refuse."""
    entered = call.state(Pass)
    if entered is None or entered.sound is None:
        return hidden
    return torch.where(entered.sound, hidden, torch.nan)
