"""Plans come and go between the calls of a model, also where other threads are calling it.

A call goes on as it began, pruned or not, whatever is attached or detached meanwhile:

- Overrides are put in place without an effect. Calls that begin then are plain to their end.
- The plan gets in force for the calls that begin from then on. Where every other thread stands is
  noted at that moment, so a call that began even before the overrides is known when it meets one.
- Before overrides are taken back, the pruned calls of other threads are waited for. A thread can't
  wait for a call of its own, such as a `generate` that calls a streamer: there that is refused, and
  so is to attach.
"""

from __future__ import annotations

import gc
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import CodeType, FrameType
from weakref import WeakSet

from torch import nn

from tokenprune.errors import UnsupportedCallError

#: Seconds for which detaching waits for the calls of other threads (ours).
WAIT = 60.0

#: Functions of torch that stand around a module's `forward`, and so around its override, too.
AROUND = ("__call__", "_wrapped_call_impl", "_call_impl")


@dataclass
class _Inside:
    """What the running context is inside of: a call of one model, and those around it.

    A callback may copy the context of a call, and call the model later or in another thread: that
    is no part of the call, so the call says in which thread it is running, and 0 once it is over.
    """

    traffic: Traffic
    pruned: bool
    around: _Inside | None
    thread: int


_inside: ContextVar[_Inside | None] = ContextVar("tokenprune_traffic", default=None)


class Traffic:
    """The calls of one model while it has overrides."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = False
        self._running: dict[int, int] = {}
        self._stood: dict[int, FrameType] = {}
        self._modules: WeakSet[nn.Module] = WeakSet()
        self._plain: set[CodeType] = set()

    def overridden(self, original: Callable[..., object]) -> None:
        """Note a method for which there is an override now."""
        code = getattr(inspect.unwrap(original), "__code__", None)
        if code is not None:
            self._plain.add(code)

    def held(self) -> bool | None:
        """Whether the running call is pruned; None where none of this model is running."""
        found = _inside.get()
        while found is not None and found.traffic is not self:
            found = found.around
        running = found is not None and found.thread == threading.get_ident()
        return found.pruned if found is not None and running else None

    def acts(self) -> bool:
        """Whether a call that begins here is pruned, if nobody attaches or detaches meanwhile."""
        held = self.held()
        return self._open if held is None else held

    @contextmanager
    def begun(self) -> Iterator[bool]:
        """A call that begins: whether it is pruned, which holds until it ends."""
        me = threading.get_ident()
        # asked first: where threads stood is known only once the plan is in force
        pruned = self._open and not self._began_before(me)
        with self._changed:
            pruned = pruned and self._open
            if pruned:
                self._running[me] = self._running.get(me, 0) + 1
        inside = _Inside(self, pruned, _inside.get(), me)
        token = _inside.set(inside)
        try:
            yield pruned
        finally:
            _inside.reset(token)
            inside.thread = 0
            if pruned:
                self._ended(me)

    def open(self, model: nn.Module) -> None:
        """Prune the calls that begin from now on.

        Args:
            model: whose overrides are in place.

        Raises:
            UnsupportedCallError: a call of this thread is running, as around a hook or a streamer.
        """
        me = threading.get_ident()
        with self._changed:
            self._modules = WeakSet(model.modules())
            if self._running_here():
                raise UnsupportedCallError(
                    "a plan can't be attached inside of a call of its model: the call would end "
                    "with a plan that it didn't begin with.",
                    where="attach",
                    remedy="Attach it before the call, or when the call is over.",
                )
            self._stood = {at: frame for at, frame in _frames().items() if at != me}
            self._open = True

    def close(self) -> None:
        """Prune no call that begins from now on, and wait for those of other threads.

        Raises:
            UnsupportedCallError: a call of another thread doesn't end, or a call of this one is
                running; nothing has changed then.
        """
        me = threading.get_ident()
        with self._changed:
            if me in self._running:
                raise UnsupportedCallError(
                    "a plan can't be detached inside of a call of its model: the call would end "
                    "without it.",
                    where="detach",
                    remedy="Detach it when the call is over.",
                )
            before, self._open = self._open, False
            if not self._changed.wait_for(lambda: not self._others(me), WAIT):
                self._open = before
                raise UnsupportedCallError(
                    "a plan can't be detached from a model that another thread has been calling "
                    f"for {WAIT:.0f} seconds.",
                    where="threads",
                    remedy="Let the call end first.",
                )
            self._stood.clear()

    def _others(self, me: int) -> set[int]:
        """Other threads with a pruned call; those of before a fork are none of this process."""
        others = self._running.keys() - {me}
        return others & _frames().keys() if others else others

    def _ended(self, thread: int) -> None:
        with self._changed:
            self._running[thread] -= 1
            if not self._running[thread]:
                del self._running[thread]
            self._changed.notify_all()

    def _running_here(self) -> bool:
        """Whether this thread is inside of a method that has an override since."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code in self._plain and frame.f_locals.get("self") in self._modules:
                return True
            frame = frame.f_back
        return False

    def _began_before(self, thread: int) -> bool:
        """Whether this thread is inside of a call that began before the overrides.

        Then there is a method of the model's in its stack that it stood in when the plan got in
        force, or that it had looked up before and runs without the override since. Each thread
        looks at its own stack: that of another one would change meanwhile.
        """
        stood = self._stood.get(thread)
        if stood is None:
            return False
        old: set[int] = set()
        frame: FrameType | None = stood
        while frame is not None:
            old.add(id(frame))
            frame = frame.f_back
        frame, further = sys._getframe(1), False
        while frame is not None:
            method = frame.f_code.co_varnames[:1] == ("self",)
            owner = frame.f_locals.get("self") if method else None
            if isinstance(owner, nn.Module) and owner in self._modules:
                # torch's own functions say nothing, unless the model's code stands above them:
                # they had looked `forward` up before it was overridden
                further = further or frame.f_code.co_name not in AROUND
                if frame.f_code in self._plain or (further and id(frame) in old):
                    return True
            frame = frame.f_back
        with self._changed:
            self._stood.pop(thread, None)
        return False


def _frames() -> dict[int, FrameType]:
    """Where every thread stands.

    Python 3.11 holds a lock meanwhile that a garbage collection takes, too: one that came in
    between would never end.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames()
    finally:
        if collects:
            gc.enable()
