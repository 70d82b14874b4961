"""Passes through a tower that are recorded once for each kind of input, and replayed from then on.

The first pass of a kind runs as usual: values are checked, and kernels compiled. The second is
recorded. Later ones copy their input to where the graph reads it, replay, and copy out what the
graph wrote: the output, and all that a pass leaves on its call, from states to the trace.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from tokenprune.engine.call import CallState, Count, repeated
from tokenprune.engine.capturing import CudaRecorder, Recorder, Replay
from tokenprune.engine.copies import Copies
from tokenprune.engine.encoder.as_recorded import AsRecorded
from tokenprune.engine.encoder.modes import modes, observed
from tokenprune.engine.encoder.pass_arguments import Undescribed, described, replaced
from tokenprune.engine.encoder.passes import EntryCall
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.stages import ResolvedStage
from tokenprune.engine.tracers import capturing, may_compile
from tokenprune.errors import RecordingWarning, TokenpruneError
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.sites import Grid
from tokenprune.interface.specs import EncoderSpec
from tokenprune.interface.trace import BatchStep, Trace

if TYPE_CHECKING:
    from tokenprune.engine.attachment import Attachment

REPLAYED = (
    "Passes of the vision tower were replayed from CUDA graphs: what choosing takes inside is in "
    "'encode', and values aren't checked there."
)
_USUAL = "Passes of the vision tower ran as usual, none was replayed, where"

#: Kinds that were met and not recorded yet, of which the oldest is forgotten (ours).
MET = 64

new_recorder: Callable[[], Recorder] = CudaRecorder


class _Left(NamedTuple):
    """What a pass leaves: its output, and what it puts on its call."""

    output: Any
    states: dict[type[Any], object]
    trace: Trace
    counts: tuple[Count, ...]
    grid: Grid


class _Graph(NamedTuple):
    """A recorded pass: where it reads its input, how it is replayed, and what it leaves."""

    inputs: list[Tensor]
    replay: Replay
    copies: Copies


class Recording:
    """Replays the passes of one tower, once `begin` was called.

    Args:
        owner: the attachment.
        adapter: the tower's family.
        spec: the tower as data.
        stages: those that act in it or read it.
        side: rows and columns of patches that make one unit in a call.
        usual: runs a pass as usual.
    """

    def __init__(
        self,
        owner: Attachment,
        adapter: EncoderAdapter,
        spec: EncoderSpec,
        stages: Sequence[ResolvedStage],
        side: Callable[[CallState], int],
        usual: Callable[[CallState, EntryCall], Any],
    ) -> None:
        self._owner, self._adapter, self._spec = owner, adapter, spec
        self._stages, self._side, self._usual = stages, side, usual
        self._lock = threading.Lock()
        self._limit = 0
        self._recorder: Recorder | None = None
        self._tower: AsRecorded | None = None
        self._graphs: dict[Hashable, _Graph] = {}
        self._met: dict[Hashable, str] = {}
        self._stood = False  # whether the tower was as recorded at the latest pass

    def refusal(self) -> str:
        """Why no pass of this tower can ever be recorded; empty if some may be."""
        name = type(self._spec.entry).__name__
        if self._spec.packed:
            return f"{name} reads the sizes of its pictures from tensors, which no graph can"
        if self._owner.plan.images == "frames":
            return "the prompt of every call says which images are the frames of one video"
        for stage in self._stages:
            if stage.plan.at == "encoder" and stage.strategy.length != "planned":
                return f"how many tokens '{stage.plan.strategy}' leaves depends on values"
        return ""

    def begin(self, limit: int) -> None:
        """Record and replay passes from now on; those that were recorded are forgotten.

        Args:
            limit: kinds of input that are recorded.
        """
        with self._lock:
            self._forget()
            self._limit = limit
            self._recorder = new_recorder()

    def end(self) -> None:
        """Replay nothing any more, and give all memory back."""
        with self._lock:
            self._forget()
            self._recorder = None

    def run(self, call: CallState, given: EntryCall) -> Any:
        """One pass: replayed, if it can be.

        Args:
            call: the running call.
            given: how the tower was called.
        """
        if self._recorder is None or call.compiled or may_compile() or capturing():
            return self._usual(call, given)
        tensors: list[Tensor] = []
        why = "gradients are recorded" if torch.is_grad_enabled() else observed()
        if not why and self._adapter.listened():
            why = "a call around collects the states of its blocks"
        kind = None if why else self._kind(call, given, tensors)
        if kind is None:
            self._note(
                why or "the input isn't made of tensors on one CUDA device, numbers and text"
            )
            return self._usual(call, given)
        with self._lock:
            left = self._replayed(call, kind, given, tensors)
        if left is not None:
            return self._handed(call, left)
        output = self._usual(call, given)
        with self._lock:
            if kind not in self._met:
                self._meet(kind, "")
        return output

    def _kind(self, call: CallState, given: EntryCall, into: list[Tensor]) -> Hashable:
        """The kind of a pass, None if it has none; the tensors among its arguments are listed."""
        try:
            told = described((given.args, given.kwargs), into)
        except Undescribed:
            return None
        devices = {tensor.device for tensor in into}
        if len(devices) != 1 or self._recorder is None:
            return None
        device = devices.pop()
        if not self._recorder.serves(device):
            return None
        return given.original, told, device, self._side(call), modes(device)

    def _replayed(
        self,
        call: CallState,
        kind: Hashable,
        given: EntryCall,
        tensors: Sequence[Tensor],
    ) -> _Left | None:
        """What a replay left, of a graph that may be recorded first; None for a pass as usual."""
        recorder = self._recorder
        if recorder is None:  # detached meanwhile
            return None
        tower, graph = self._tower, self._graphs.get(kind)
        if self._stood and tower is not None and graph is not None and tower.in_place():
            left = self._launched(recorder, graph, tensors, tower)
            if left is not None:
                return left
        self._stood, tower = False, self._standing()
        why = "a module is in training mode" if tower.training() else tower.why
        device = tensors[0].device
        if not why and tower.devices - {device}:
            why = "the weights are on another device than the input"
        if why:
            self._note(why)
            return None
        graph = self._graphs.get(kind)
        if graph is None:
            graph = self._new(recorder, call, kind, given, tensors)
        if graph is None:
            return None
        self._stood = True
        return self._launched(recorder, graph, tensors)

    def _launched(
        self,
        recorder: Recorder,
        graph: _Graph,
        tensors: Sequence[Tensor],
        tower: AsRecorded | None = None,
    ) -> _Left | None:
        """What a replay left.

        The GPU replays while the CPU looks at the tower: a replay of a graph that turns out to be
        stale writes to the graph's own memory only, and is forgotten.

        Args:
            recorder: of the graph.
            graph: to be replayed, for which all memory that it reads is there.
            tensors: its input.
            tower: what must be as recorded; None if that is known.
        """
        with recorder.turn(tensors[0].device):
            torch._foreach_copy_(graph.inputs, list(tensors), non_blocking=True)
            graph.replay()
            if tower is not None and not tower.unchanged():
                return None
            left: _Left = graph.copies.taken()
        return left

    def _standing(self) -> AsRecorded:
        """The tower as it stands; graphs of one that has changed since are forgotten.

        They are kept, and aren't replayed, while it is in training mode.
        """
        tower = self._tower
        if tower is not None and (tower.training() or (tower.in_place() and tower.unchanged())):
            return tower
        self._forget()
        modules = (stage.strategy.modules() for stage in self._stages)
        others: list[nn.Module] = [module for module in modules if module is not None]
        self._tower = tower = AsRecorded(self._adapter, self._spec, others)
        return tower

    def _new(
        self,
        recorder: Recorder,
        call: CallState,
        kind: Hashable,
        given: EntryCall,
        tensors: Sequence[Tensor],
    ) -> _Graph | None:
        """Record a kind that was met before; None for a first pass, and if it can't be done."""
        known = self._met.get(kind)
        if known is None:
            return None
        if not known and len(self._graphs) >= self._limit:
            known = f"more than {self._limit} kinds of input came: raise record(limit=...)"
        if known:
            self._note(known)
            return None
        inputs = [tensor.clone() for tensor in tensors]
        args, kwargs = replaced((given.args, given.kwargs), iter(inputs))
        kept, around = EntryCall(given.original, args, kwargs), call.still()

        def run() -> _Left:
            with repeated(self._owner, around) as inside, _uncached():
                output = self._usual(inside, kept)
                made, counts = inside.made(around), tuple(inside.noted)
                return _Left(output, made, inside.trace, counts, inside.grid)

        try:
            replay, left = recorder.record(run, inputs[0].device)
            graph = _Graph(inputs, replay, Copies(left))
        except Exception as error:
            said = error.message if isinstance(error, TokenpruneError) else str(error)
            why = said.strip().split("\n")[0].rstrip(".") or type(error).__name__
            warnings.warn(
                f"a pass of the vision tower can't be recorded, and runs as usual: {why}.",
                RecordingWarning,
                stacklevel=2,
            )
            self._meet(kind, f"recording failed: {why}")
            return None
        self._met.pop(kind, None)
        self._graphs[kind] = graph
        return graph

    def _handed(self, call: CallState, left: _Left) -> Any:
        """The output of a replay; what else it left is put on its call."""
        call.drop(EncoderState)
        call.grid = left.grid
        for counted in left.counts:
            call.count(*counted)
        trace, whole, first = left.trace, call.trace, len(call.trace.grids)
        whole.grids += trace.grids
        whole.records += trace.records if not first else _counted_on(trace.records, first)
        for state in left.states.values():
            if isinstance(state, EncoderState):
                if state.trace is trace:
                    state.trace = whole
                    state.images = [number + first for number in state.images]
                if state.sites:
                    self._adapter.weighted_pool(state.row_sizes)
            call.put(state)
        self._owner.notes.add(REPLAYED)
        return left.output

    def _meet(self, kind: Hashable, why: str) -> None:
        """Remember a kind that has no graph, and why it never gets one."""
        self._met.pop(kind, None)
        if len(self._met) >= MET:
            del self._met[next(iter(self._met))]
        self._met[kind] = why

    def _note(self, why: str) -> None:
        self._owner.notes.add(f"{_USUAL} {why}.")

    def _forget(self) -> None:
        if self._recorder is not None:
            self._recorder.release()
        self._graphs.clear()
        self._met.clear()
        self._tower = None


def _counted_on(records: Sequence[BatchStep], first: int) -> Iterator[BatchStep]:
    """Records of a pass whose images have numbers from `first` on."""
    for record in records:
        yield record._replace(images=tuple([number + first for number in record.images]))


@contextmanager
def _uncached() -> Iterator[None]:
    """Without autocast's cache, whose casts of weights end with its block."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
