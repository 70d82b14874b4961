"""The state of one call of an attached model; it lives no longer than the call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor

from tokenprune.engine.meter import Meter
from tokenprune.errors import NonFiniteError, TokenpruneError
from tokenprune.interface.tokens import Site
from tokenprune.interface.trace import Trace
from tokenprune.plan import Plan

State = TypeVar("State")

_active: ContextVar[CallState | None] = ContextVar("tokenprune_call", default=None)


class Owner(Protocol):
    """What a call belongs to: an attachment.

    Attributes:
        plan: the plan in force.
        meter: what counts seconds and tokens.
    """

    plan: Plan
    meter: Meter

    def finished(self, call: CallState) -> None:
        """Take over what a call measured."""
        ...


@dataclass
class CallState:
    """What one outermost call of a model carries along.

    Every wing of the engine keeps a state of its own here, under the state's class.

    Attributes:
        owner: the attachment whose model is running; told from others by identity only.
        plan: the attachment's plan.
        meter: the attachment's meter.
        parent: the call around this one, of another attached model.
        trace: what was kept so far.
        grid: patch grid of the latest encoder pass.
    """

    owner: object
    plan: Plan
    meter: Meter
    parent: CallState | None
    trace: Trace = field(default_factory=Trace)
    grid: tuple[int, int, int] = (1, 0, 0)
    _states: dict[type[Any], object] = field(default_factory=dict)
    _pending: list[tuple[TokenpruneError, Tensor]] = field(default_factory=list)

    def state(self, kind: type[State]) -> State | None:
        """The state of this class, or None if there is none yet."""
        return cast("State | None", self._states.get(kind))

    def put(self, state: object) -> None:
        """Keep a state in place of the former one of its class."""
        self._states[type(state)] = state

    def drop(self, kind: type[Any]) -> None:
        """Forget the state of this class, if there is one."""
        self._states.pop(kind, None)

    def watch(self, site: Site, hidden: Tensor) -> None:
        """Refuse NaN and infinity before a selection is made from them.

        On the CPU at once; on other devices at the end of the call, to avoid a sync per site.

        Args:
            site: where the selection is made.
            hidden: `[B, P + N, D]` what arrives there.

        Raises:
            NonFiniteError: `hidden` holds NaN or infinity.
        """
        self.require(hidden.detach().sum(dtype=torch.float32).isfinite(), _not_finite(site))

    def require(self, fulfilled: Tensor, error: TokenpruneError) -> None:
        """Raise `error` unless a bool scalar `[]` holds; when, is up to the device as in `watch`.

        Raises:
            TokenpruneError: that error.
        """
        if torch.compiler.is_compiling():
            return
        if fulfilled.device.type == "cpu":
            _raise_unless(fulfilled, error)
        else:
            self._pending.append((error, fulfilled))

    def settle(self) -> None:
        """Check what was put off.

        Raises:
            TokenpruneError: the first error whose condition doesn't hold.
        """
        for error, fulfilled in self._pending:
            _raise_unless(fulfilled, error)


def current(owner: object) -> CallState | None:
    """The running call of this attachment in this thread and context, if any."""
    state = _active.get()
    while state is not None and state.owner is not owner:
        state = state.parent
    return state


@contextmanager
def calling(owner: Owner) -> Iterator[CallState]:
    """The running call of this attachment, or a new one that ends with the block."""
    running = current(owner)
    if running is not None:
        yield running
        return
    state = CallState(owner, owner.plan, owner.meter, parent=_active.get())
    token = _active.set(state)
    try:
        yield state
        state.settle()
        owner.finished(state)
    finally:
        _active.reset(token)


def _raise_unless(fulfilled: Tensor, error: TokenpruneError) -> None:
    if not bool(fulfilled):
        raise error


def _not_finite(site: Site) -> NonFiniteError:
    return NonFiniteError(
        "the hidden states hold NaN or infinity, so no token can be chosen.",
        where=str(site),
        remedy="Check the input, or run in bfloat16 or float32 if this is float16.",
    )
