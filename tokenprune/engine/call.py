"""The state of one call of an attached model; it lives no longer than the call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, field, replace
from threading import get_ident
from typing import Any, Protocol, TypeVar, cast

import torch

from tokenprune.engine.conditions import Checks, Conditions
from tokenprune.engine.inert import UNCHECKED, UNMEASURED, UNRECORDED
from tokenprune.engine.meter import Meter
from tokenprune.engine.tracers import capturing, refuse_tracing
from tokenprune.errors import TokenpruneError
from tokenprune.interface.sites import Grid
from tokenprune.interface.trace import Trace
from tokenprune.plan import Plan

State = TypeVar("State")
Count = tuple[str, int, int]
"""A stage, tokens and images, see `Meter.count`."""

_active: ContextVar[CallState | None] = ContextVar("tokenprune_call", default=None)


class Owner(Protocol):
    """What a call belongs to: an attachment.

    Attributes:
        plan: the plan in force.
        meter: what counts seconds and tokens.
        checks: when values are checked.
        compiling: the call that is being traced into one graph, only while it is.
        idle: whether no call is running, in any thread.
    """

    plan: Plan
    meter: Meter
    checks: Checks
    compiling: CallState | None
    idle: bool

    def running(self, more: int) -> None:
        """Note that more calls are running, or fewer."""
        ...

    def finished(self, call: CallState) -> None:
        """Take over what a call measured."""
        ...

    def ran_compiled(self) -> None:
        """Note that a call ran as one compiled graph, which nothing measures."""
        ...


@dataclass
class CallState:
    """What one outermost call of a model carries along.

    Every wing of the engine keeps a state of its own here, under the state's class.

    Attributes:
        owner: the attachment whose model is running; told from others by identity only.
        plan: the attachment's plan.
        meter: the attachment's meter.
        conditions: what must hold of values in this call.
        parent: the call around this one, of another attached model.
        trace: what was kept so far.
        grid: patch grid of the latest encoder pass.
        noted: what a graph inside the call counted, for the meter at the end of it.
        thread: in which the call is running; 0 before and once it is over.
    """

    owner: object
    plan: Plan
    meter: Meter
    conditions: Conditions
    parent: CallState | None
    trace: Trace = field(default_factory=Trace)
    grid: Grid = (1, 0, 0)
    noted: list[Count] = field(default_factory=list)
    thread: int = 0
    _states: dict[type[Any], object] = field(default_factory=dict)

    def count(self, stage: str, tokens: int, images: int) -> None:
        """As `Meter.count`; a graph leaves it to the call around it, as it can take no lock."""
        if self.compiled:
            self.noted.append((stage, tokens, images))
        else:
            self.meter.count(stage, tokens, images)

    @property
    def compiled(self) -> bool:
        """Whether the whole call is being traced or recorded into one graph."""
        return self.conditions is UNCHECKED

    def state(self, kind: type[State]) -> State | None:
        """The state of this class, or None if there is none yet."""
        return cast("State | None", self._states.get(kind))

    def put(self, state: object) -> None:
        """Keep a state in place of the former one of its class."""
        self._states[type(state)] = state

    def still(self) -> CallState:
        """This call as it stands, whatever becomes of its states."""
        return replace(self, _states={kind: copy(one) for kind, one in self._states.items()})

    def made(self, around: CallState) -> dict[type[Any], object]:
        """The states that stand here and not in the call around this one."""
        known = around._states
        return {kind: one for kind, one in self._states.items() if known.get(kind) is not one}

    def drop(self, kind: type[Any]) -> None:
        """Forget the state of this class, if there is one."""
        self._states.pop(kind, None)


def current(owner: Owner, *, tower: bool = False) -> CallState | None:
    """The running call of this attachment in this thread and context, if any.

    Args:
        owner: the attachment.
        tower: whether an encoder asks, which may be all of a call. Older compilers break a graph at
            a context variable, so one where no call is running doesn't look at it.
    """
    if torch.compiler.is_dynamo_compiling():
        if owner.compiling is not None:
            return owner.compiling
        if tower and owner.idle:
            return None
        return _innermost(owner)
    state, here = _innermost(owner), get_ident()
    # a callback may have copied the context of a call, and call the model later or elsewhere
    return state if state is not None and state.thread == here else None


def _innermost(owner: Owner) -> CallState | None:
    state = _active.get()
    while state is not None and state.owner is not owner:
        state = state.parent
    return state


def current_state(owner: Owner, kind: type[State]) -> State | None:
    """The state of this class in the running call, or None if there is no such call or state."""
    call = current(owner)
    return None if call is None else call.state(kind)


@contextmanager
def calling(owner: Owner, *, apart: bool = False, tower: bool = False) -> Iterator[CallState]:
    """The running call of this attachment, or a new one that ends with the block.

    Args:
        owner: the attachment.
        apart: whether it is a call of its own inside the running one.
        tower: see `current`.
    """
    running = None if apart else current(owner, tower=tower)
    if running is not None:
        yield running
        return
    if torch.compiler.is_dynamo_compiling():
        with compiled(owner, None) as state:
            yield state
        return
    if capturing() or torch.compiler.is_exporting():
        with _recorded(owner) as state:
            yield state
        return
    refuse_tracing()
    conditions = Conditions(owner.checks)
    state = CallState(owner, owner.plan, owner.meter, conditions, parent=_active.get())
    try:
        with _running(owner, state):
            yield state
            conditions.settle()
            for counted in state.noted:
                owner.meter.count(*counted)
            owner.finished(state)
    except TokenpruneError:
        raise
    except Exception as cause:  # NaN can break the model before the call's end
        conditions.explain(cause)
        raise


@contextmanager
def stepping(owner: Owner) -> Iterator[CallState]:
    """The running call, for a step that may be one graph of its own in it.

    What a graph has to do with the call around it stands in its arguments, and it measures nothing.
    """
    if torch.compiler.is_dynamo_compiling() and owner.compiling is None:
        with compiled(owner, None) as state:
            yield state
        return
    with calling(owner) as state:
        yield state


@contextmanager
def _running(owner: Owner, state: CallState) -> Iterator[None]:
    """Let `current` find a call."""
    token, state.thread = _active.set(state), get_ident()
    owner.running(1)
    try:
        yield
    finally:
        owner.running(-1)
        _active.reset(token)
        state.thread = 0


@contextmanager
def compiled(owner: Owner, around: CallState | None) -> Iterator[CallState]:
    """A call inside one graph: an attribute that is put back needs no code in the graph.

    Args:
        owner: the attachment.
        around: the running call that the graph is a part of; None where it is all of the call.
    """
    state = CallState(owner, owner.plan, UNMEASURED, UNCHECKED, None, UNRECORDED)
    if around is not None:  # what the graph puts into these, the compiler puts there at every run
        state.trace, state.noted, state._states = around.trace, around.noted, around._states
    before, owner.compiling = owner.compiling, state
    try:
        yield state
        if around is None:
            owner.ran_compiled()
    finally:
        owner.compiling = before


@contextmanager
def _recorded(owner: Owner) -> Iterator[CallState]:
    """A call that a CUDA graph or `torch.export` records: nothing is measured when it is replayed.

    Reading a value or a clock would break the recording, and a trace would hold tensors that every
    replay writes anew; counts would fix a size that is left open.
    """
    state = CallState(owner, owner.plan, UNMEASURED, UNCHECKED, _active.get(), UNRECORDED)
    with _running(owner, state):
        yield state
        owner.ran_compiled()


@contextmanager
def repeated(owner: Owner, around: CallState) -> Iterator[CallState]:
    """A part of a running call whose kernels are to be replayed in later calls.

    It is as inert as a call that a CUDA graph records, and sees what stands in the call around it.
    What it leaves stands in the state that it yields, and nowhere else.

    Args:
        owner: the attachment.
        around: the running call.
    """
    state = CallState(owner, owner.plan, UNMEASURED, UNCHECKED, around, Trace(), around.grid)
    state._states, state.thread = dict(around._states), get_ident()
    token = _active.set(state)
    try:
        yield state
    finally:
        _active.reset(token)
        state.thread = 0
