"""Wall time split into encode / select / project / prefill / decode, and token counts by stage."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from contextlib import AbstractContextManager
from typing import Any

import torch

_cuda: Any = torch.cuda  # looked up once; some of its functions have no types

TIMED = ("encode", "select", "project", "prefill", "decode")

#: Segments of stages that wait to be added up; a server may never ask for the seconds (ours).
MOST = 4096


class _Stopwatch(threading.local):
    """The stages that are open in one thread."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.mark: Any = None
        self.stream: Any = None

    def now(self) -> Any:
        """A mark of this moment: an event on CUDA, in the stream of the outermost stage."""
        if not _cuda.is_initialized():  # not is_available, which asks the driver
            return time.perf_counter()
        if not self.open:  # looked up once, which takes longer than the rest
            self.stream = _cuda.current_stream()
        event = _cuda.Event(enable_timing=True)
        event.record(self.stream)
        return event


class Meter:
    """Adds up seconds and tokens over the calls since `reset`, in any number of threads.

    Stages nest and times are exclusive: what `select` takes inside `encode` is not in `encode`.
    On CUDA the marks are events, read when the seconds are asked for.

    Attributes:
        calls: finished outermost calls that were measured.
        flops: FLOPs counted under `count_flops`; None where nothing was counted.
        tiles: pieces in which a tower saw an image, in the mean; None where nobody tells.
        compiled: whether calls ran as one compiled graph since, which nothing measures.
    """

    def __init__(self) -> None:
        self._watch = _Stopwatch()
        self._lock = threading.Lock()
        self._stages: dict[str, _Stage] = {}
        self.reset()

    def reset(self) -> None:
        """Forget everything measured so far."""
        with self._lock:
            self._segments: list[tuple[str, Any, Any]] = []
            self._seconds: dict[str, float] = defaultdict(float)
            self._tokens: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
            self._tiles = [0, 0]
            self.calls = 0
            self.flops: int | None = None
            self.compiled = False

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Time what runs inside as `name`, pausing the stage around it."""
        found = self._stages.get(name)
        if found is None:
            found = self._stages[name] = _Stage(self, name)
        return found

    def count(self, stage: str, tokens: float, images: float) -> None:
        """Record that `images` images (prompts for text) had `tokens` tokens at a stage."""
        with self._lock:
            entry = self._tokens[stage]
            entry[0] += tokens
            entry[1] += images

    def count_tiles(self, tiles: int, images: int) -> None:
        """Record that a tower saw `images` images, or frames, in `tiles` pieces."""
        with self._lock:
            self._tiles[0] += tiles
            self._tiles[1] += images

    @property
    def tiles(self) -> float | None:
        """See the class."""
        tiles, images = self._tiles
        return tiles / images if images else None

    @property
    def seconds(self) -> dict[str, float]:
        """Exclusive seconds by stage."""
        with self._lock:
            self._fold(len(self._segments))
            return {name: self._seconds.get(name, 0.0) for name in TIMED}

    @property
    def counts(self) -> dict[str, tuple[float, float]]:
        """By stage, tokens and the images (prompts for text) that they are of, as measured."""
        return {name: (tokens, images) for name, (tokens, images) in self._tokens.items()}

    @property
    def tokens(self) -> dict[str, float]:
        """Mean tokens per image by stage, as measured."""
        return {name: tokens / images for name, (tokens, images) in self.counts.items() if images}

    @property
    def images(self) -> int:
        """Images encoded so far."""
        found = (self._tokens[name] for name in ("patches", "units") if name in self._tokens)
        return int(next(found, [0, 0])[1])

    def _fold(self, count: int) -> None:
        """Add up the oldest segments and let go of their events; under the lock."""
        for name, start, end in self._segments[:count]:
            self._seconds[name] += _elapsed(start, end)
        del self._segments[:count]


class _Stage(AbstractContextManager[None]):
    """A stage of a meter, open inside a `with` block; a generator would cost several times more.

    The stopwatch of the thread keeps what is open, so one of each name serves all threads.
    """

    __slots__ = ("_meter", "_name")

    def __init__(self, meter: Meter, name: str) -> None:
        self._meter, self._name = meter, name

    def __enter__(self) -> None:
        watch = self._meter._watch
        now = watch.now()
        around = watch.open
        if around:
            self._meter._segments.append((around[-1], watch.mark, now))
        watch.mark = now
        around.append(self._name)

    def __exit__(self, *error: object) -> None:
        meter = self._meter
        watch, segments = meter._watch, meter._segments
        now = watch.now()
        segments.append((watch.open.pop(), watch.mark, now))
        watch.mark = now
        if len(segments) > MOST:
            with meter._lock:  # the older half, which ended long ago
                meter._fold(MOST // 2)


def _elapsed(start: Any, end: Any) -> float:
    if isinstance(start, _cuda.Event):
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000
    return float(end - start)
