"""The handle of a model that carries a plan."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol
from weakref import WeakKeyDictionary

from torch import nn

from tokenprune.engine.call import CallState
from tokenprune.engine.conditions import Checks, When
from tokenprune.engine.meter import Meter
from tokenprune.engine.patching import Patches
from tokenprune.engine.report import Report, lines_of
from tokenprune.engine.stages import ResolvedStage
from tokenprune.engine.tensor_parallel import WholeHeads
from tokenprune.engine.traffic import Traffic
from tokenprune.errors import AlreadyAttachedError, NotMeasuredError, UnsupportedCallError
from tokenprune.interface.trace import Trace
from tokenprune.ops.flops import count_flops

if TYPE_CHECKING:
    from tokenprune.plan import Plan

ATTACHED: WeakKeyDictionary[nn.Module, weakref.ref[Attachment]] = WeakKeyDictionary()
"""Modules that carry a plan, with its handle. A model that is dropped with its plan leaves by
itself; its id, which another model may get, would stay."""

_Owned = tuple["weakref.ref[Attachment]", Trace]
_latest: ContextVar[tuple[_Owned, ...]] = ContextVar("tokenprune_trace", default=())
"""The trace of the latest call of every handle, in this thread or task."""
_TOWER_COMPILED = (
    "The vision tower ran as one compiled graph: what choosing takes inside is in 'encode', and "
    "values aren't checked there."
)


def attached(model: nn.Module) -> list[Attachment]:
    """The handles of the plans on a model or on parts of it, so also of one that wasn't kept.

    Args:
        model: any module: a model, a wrapper around one, or a tower inside of one.

    Returns:
        One handle or none, as a rule; several, in the order of the parts, where parts of `model`
        carry plans of their own. A deep copy of an attached model has none.
    """
    claims = (ATTACHED.get(module) for module in model.modules())
    handles = (claim() for claim in claims if claim is not None)
    return [*dict.fromkeys(handle for handle in handles if handle is not None)]


class Replayable(Protocol):
    """The passes of one tower, which may be recorded and replayed."""

    def refusal(self) -> str:
        """Why none of them can ever be recorded; empty if some may be."""
        ...

    def begin(self, limit: int) -> None:
        """Record and replay from now on, of so many kinds of input."""
        ...

    def end(self) -> None:
        """Replay nothing any more."""
        ...


class Attachment:
    """A plan in force on one model instance; a context manager that detaches at its end.

    Attributes:
        plan: the plan.
        stages: the plan's stages with their strategies.
        meter: seconds and tokens since attaching or `meter.reset()`.
        checks: when the values of answers are checked.
        notes: what to know about the plan on this model, in plain words.
        compiling: the call that is being traced into one graph, only while it is.
        idle: whether no call of the model is running, in any thread.
        recordings: of the towers that the plan acts in or reads.
        heads: of which attention the plan reads scores, so that no process may lack some of them.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        stages: list[ResolvedStage],
        checks: When | Checks = "first",
    ) -> None:
        self.plan, self.stages = plan, stages
        self._model: nn.Module | None = model
        self._named = weakref.ref(model)
        self.checks = checks if isinstance(checks, Checks) else Checks(checks)
        self.meter = Meter()
        self.traffic = Traffic()
        self.patches = Patches(self.traffic)
        self.notes: set[str] = set()
        self.compiling: CallState | None = None
        self.idle = True
        self._open, self._lock = 0, threading.Lock()
        self.recordings: list[Replayable] = []
        self.heads = WholeHeads()
        self._claimed: list[nn.Module] = []
        self._graphs = threading.local()

    @property
    def model(self) -> nn.Module:
        """The model, changed in place until `detach`; from then on the handle doesn't keep it.

        Raises:
            UnsupportedCallError: the plan was detached, and the model is gone.
        """
        found = self._named() if self._model is None else self._model
        if found is None:
            raise UnsupportedCallError("the model of this handle is gone.", where="model")
        return found

    def claim(self, *modules: nn.Module) -> None:
        """Mark modules as carrying this plan, until `detach`.

        Raises:
            AlreadyAttachedError: one of them carries a plan; then none is marked.
        """
        for module in modules:
            if module in ATTACHED:
                raise AlreadyAttachedError(
                    f"this {type(module).__name__} carries a plan already.",
                    remedy="Call detach() on its handle first: tokenprune.attached(model).",
                )
        for module in modules:
            ATTACHED[module] = weakref.ref(self)
            self._claimed.append(module)

    def stages_at(self, place: str) -> list[ResolvedStage]:
        """The stages at `encoder`, `pre_llm` or `decoder`, in the plan's order."""
        return [stage for stage in self.stages if stage.plan.at == place]

    @property
    def trace(self) -> Trace:
        """What was kept in the latest call that finished here; empty before the first.

        Here is this thread, and under asyncio this task; of a call that a task hands to another
        thread, read the trace in what runs there.

        Raises:
            NotMeasuredError: that call ran as one compiled graph, which records nothing.
        """
        if getattr(self._graphs, "latest", False):
            raise NotMeasuredError(
                "the latest call ran as one compiled graph, which records no trace.",
                remedy="Call the model as it was before torch.compile, with the same input.",
            )
        return next((trace for owner, trace in _latest.get() if owner() is self), Trace())

    def finished(self, call: CallState) -> None:
        """Take over what a call measured; called by the engine."""
        others = (pair for pair in _latest.get() if pair[0]() not in (None, self))
        _latest.set((*others, (weakref.ref(self), call.trace)))
        self._graphs.latest = False
        if call.noted:
            self.notes.add(_TOWER_COMPILED)
        self.meter.calls += 1

    def running(self, more: int) -> None:
        """Note that more calls are running, or fewer; called by the engine."""
        with self._lock:
            self._open += more
            self.idle = self._open == 0

    def ran_compiled(self) -> None:
        """Note that a call ran as one compiled graph; called by the engine."""
        self._graphs.latest = True  # no context variable can be set in a graph
        self.meter.compiled = True

    @contextmanager
    def count_flops(self) -> Iterator[None]:
        """Count the FLOPs of the calls inside, selection included, into `meter.flops`.

        Counting slows the calls down, so time them apart.

        Raises:
            UnsupportedCallError: the plan was detached, so the calls would run without it.
        """
        self.require_attached()
        with count_flops() as counter:
            yield
        self.meter.flops = (self.meter.flops or 0) + int(counter.total)

    def report(self) -> Report:
        """Tokens, FLOPs and seconds by stage, as measured since `meter.reset()`.

        Calls that ran as one compiled graph aren't in it, and it says so.
        """
        return Report.of(self.stages, self.meter, self.notes)

    def record(self, limit: int = 8) -> Attachment:
        """Replay passes of the vision tower from CUDA graphs, from now on until `detach`.

        That is for passes of one or a few pictures, which take as long as the CPU needs to launch
        their kernels. The first pass of a kind (shapes, types, device, other arguments) runs as
        usual, the second is recorded, and later ones are replayed. What comes out of the model is
        the caller's own, as ever. Replays count as one stage, `encode`, and read no value: inputs
        that hold NaN aren't refused.

        Passes run as usual with gradients, in training mode, on other devices, inside of
        `torch.compile` or of another graph, and with hooks on modules inside; the notes of
        `report()` say so. Weights or modules that are replaced begin it anew, and
        so do adapters that are switched.

        Args:
            limit: kinds of input that are recorded; others run as usual. A graph holds what a pass
                needs of memory; all of them share a pool.

        Returns:
            This handle.

        Raises:
            UnsupportedCallError: no pass of this model with this plan can ever be recorded.
        """
        self.require_attached()
        whys, never = [recording.refusal() for recording in self.recordings], ""
        if limit < 1:
            never = f"limit={limit} leaves nothing to record"
        elif self.checks.when == "always":
            never = 'checks="always" looks at values in every call'
        elif not self.recordings:
            never = "the plan does nothing inside of a vision tower"
        elif all(whys):
            never = ", ".join(dict.fromkeys(whys))
        if never:
            raise UnsupportedCallError(
                f"no pass can be recorded: {never}.",
                where="record",
                remedy="Leave record() out: calls run as usual.",
            )
        for recording, reason in zip(self.recordings, whys, strict=True):
            if reason:
                self.notes.add(f"Passes of a tower aren't recorded: {reason}.")
            else:
                recording.begin(limit)
        return self

    def begin(self) -> None:
        """Prune the calls that begin from now on; called by the engine, once all is in place."""
        self.traffic.open(self.model)

    def detach(self) -> None:
        """Give the model back as it was; calling it twice is harmless.

        Calls that run in other threads end as they began.

        Raises:
            UnsupportedCallError: one of them doesn't end, or this is called from inside of one, as
                by a hook or a streamer.
        """
        self.traffic.close()
        self.patches.undo()
        while self.recordings:
            self.recordings.pop().end()
        while self._claimed:
            ATTACHED.pop(self._claimed.pop(), None)
        self.heads.forget()
        self._model = None

    def require_attached(self) -> None:
        """Refuse what would run without the plan.

        Raises:
            UnsupportedCallError: the plan was detached.
        """
        if self._model is None:
            raise UnsupportedCallError(
                "this plan was detached, so calls would run without it.",
                where="handle",
                remedy="Call tokenprune.attach() again.",
            )

    def __repr__(self) -> str:
        model = self._named()
        kind = "a model that is gone" if model is None else type(model).__name__
        where = f"detached from {kind}" if self._model is None else f"on {kind}"
        name = f"plan {self.plan.name!r}" if self.plan.name else "plan"
        return f"<{name} {where}: {'; '.join(lines_of(self.stages)) or 'dense'}>"

    def __enter__(self) -> Attachment:
        self.require_attached()
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise UnsupportedCallError(
            "a handle belongs to one model and can't be copied or pickled.",
            remedy="Keep it outside of what is copied, and attach() the plan to the copy.",
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()
