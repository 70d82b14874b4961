"""Recording what a function launches on a device into a graph, and replaying it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.calls import Arguments

Made = TypeVar("Made")
Replay = Callable[[], None]

_cuda: Any = torch.cuda  # some of its functions have no types
_one_at_a_time = threading.Lock()
"""A process can capture one graph at a time."""

#: Operations that make their device wait, by the names that torch gives them.
_WAITING = {
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount"),
    *("unique_consecutive", "_unique2", "unique_dim", "_linalg_check_errors"),
}


class Recorder(Protocol):
    """Records functions on the devices of one kind; its graphs are replayed one after the other."""

    def serves(self, device: torch.device) -> bool:
        """Whether what runs on a device can be recorded."""
        ...

    def record(self, run: Callable[[], Made], device: torch.device) -> tuple[Replay, Made]:
        """A replay of what a function launches, and what it gave, which replays overwrite.

        Raises:
            Exception: it can't be recorded; everything is as before.
        """
        ...

    def turn(self, device: torch.device) -> AbstractContextManager[None]:
        """Around copying in, a replay and copying out: behind those before, on any stream."""
        ...

    def release(self) -> None:
        """Wait for all replays, so that their memory can be given back."""
        ...


class CudaRecorder:
    """Records into CUDA graphs, which share a pool of memory."""

    def __init__(self) -> None:
        self._pool: Any = None
        self._streams: dict[torch.device, Any] = {}
        self._last: dict[torch.device, Any] = {}
        self._broken = ""

    def serves(self, device: torch.device) -> bool:
        """Whether it is a CUDA device."""
        return device.type == "cuda"

    def record(self, run: Callable[[], Made], device: torch.device) -> tuple[Replay, Made]:
        """See `Recorder`; the function runs twice, the first time on its own.

        Raises:
            UnsupportedCallError: what the function does can't be recorded.
            Exception: what it, or the recording, raised.
        """
        if self._broken:
            raise UnsupportedCallError(f"an earlier recording failed: {self._broken}.")
        with _cuda.device(device), _one_at_a_time:
            if self._pool is None:
                self._pool = _cuda.graph_pool_handle()
            aside = self._streams.get(device)
            if aside is None:
                aside = self._streams[device] = _cuda.Stream(device)
            here = _cuda.current_stream(device)
            aside.wait_stream(here)
            with _cuda.stream(aside):
                rehearse(run, device)
            here.wait_stream(aside)
            return self._capture(run, device, aside)

    def _capture(
        self, run: Callable[[], Made], device: torch.device, aside: Any
    ) -> tuple[Replay, Made]:
        graph, here = _cuda.CUDAGraph(), _cuda.current_stream(device)
        generator = _cuda.default_generators[device.index]
        state = generator.clone_state()
        try:
            with _cuda.graph(
                graph, pool=self._pool, stream=aside, capture_error_mode="thread_local"
            ):
                made = run()
        except BaseException as error:
            self._broken = type(error).__name__
            _cuda.set_stream(here)
            # torch leaves these as they are while a graph is captured
            with contextlib.suppress(Exception):
                generator.graphsafe_set_state(state)
            with contextlib.suppress(Exception):
                torch._C._cuda_endAllocateToPool(device.index, self._pool)
            raise
        return graph.replay, made

    @contextmanager
    def turn(self, device: torch.device) -> Iterator[None]:
        """See `Recorder`."""
        stream, last = _cuda.current_stream(device), self._last.get(device)
        if last is None:
            last = self._last[device] = _cuda.Event()
        else:
            stream.wait_event(last)
        try:
            yield
        finally:
            last.record(stream)

    def release(self) -> None:
        """Wait for all replays, and forget the pool."""
        for last in self._last.values():
            last.synchronize()
        self._last, self._streams, self._pool, self._broken = {}, {}, None, ""


def rehearse(run: Callable[[], object], device: torch.device) -> None:
    """Run a function that is to be recorded, and refuse what no graph can hold.

    A recording that fails leaves its device in a poor state, so it is better not begun.

    Args:
        run: the function.
        device: where it runs.

    Raises:
        UnsupportedCallError: it reads values of the device, copies between devices, or draws random
            numbers.
        Exception: what it raised otherwise.
    """
    watch = _Watch(device)
    try:
        with watch:
            run()
    except Exception as error:
        if watch.why:
            raise UnsupportedCallError(watch.why, where="record") from error
        raise


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises at an operation that can't be recorded, in this thread."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device, self.why = device, ""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Arguments | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        with self:  # in inference mode operations come whole
            parts = func.decompose(*args, **named)
        if parts is not NotImplemented:
            return parts
        self.why = self._refused(func, args, named)
        if self.why:
            raise UnsupportedCallError(self.why, where="record")
        return func(*args, **named)

    def _refused(self, func: Any, args: tuple[Any, ...], kwargs: Arguments) -> str:
        name = func.__name__.split(".")[0]
        given = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
        if name in ("copy_", "_to_copy"):
            devices = {one.device for one in given} | {kwargs.get("device") or given[0].device}
            kinds = {torch.device(one).type for one in devices}
            return f"'{name}' copies between devices" if len(kinds) > 1 else ""
        if _waits(name, args, kwargs) and any(one.device == self._device for one in given):
            return f"'{name}' reads values of the device"
        # attention draws for dropout only, which is for training
        if torch.Tag.nondeterministic_seeded in func.tags and "attention" not in name:
            return f"'{name}' draws random numbers"
        return ""


def _waits(name: str, args: tuple[Any, ...], kwargs: Arguments) -> bool:
    """Whether an operation makes its device wait for a value."""
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    if name in ("index", "index_put", "index_put_") and len(args) > 1:
        masks = (torch.bool, torch.uint8)
        return any(one is not None and one.dtype in masks for one in args[1])
    return name in _WAITING
