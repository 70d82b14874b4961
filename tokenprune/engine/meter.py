"""Wall time split into encode / select / project / prefill / decode, and token counts by stage."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

TIMED = ("encode", "select", "project", "prefill", "decode")


class Meter:
    """Adds up seconds and tokens over the calls since `reset`.

    Stages nest and times are exclusive: what `select` takes inside `encode` is not in `encode`.
    On CUDA the marks are events, read when the seconds are asked for.
    """

    def __init__(self) -> None:
        self._open: list[str] = []
        self._mark: Any = None
        self._segments: list[tuple[str, Any, Any]] = []
        self._seconds: dict[str, float] = defaultdict(float)
        self._tokens: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.calls = 0
        self.flops = 0

    def reset(self) -> None:
        """Forget everything measured so far."""
        self.__init__()  # type: ignore[misc]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what runs inside as `name`, pausing the stage around it."""
        self._switch(push=name)
        try:
            yield
        finally:
            self._switch()

    def count(self, stage: str, tokens: float, images: float) -> None:
        """Record that `images` images had `tokens` tokens together at a stage."""
        entry = self._tokens[stage]
        entry[0] += tokens
        entry[1] += images

    @property
    def seconds(self) -> dict[str, float]:
        """Exclusive seconds by stage."""
        self._resolve()
        return {name: self._seconds.get(name, 0.0) for name in TIMED}

    @property
    def tokens(self) -> dict[str, float]:
        """Mean tokens per image by stage, as measured."""
        return {name: total / images for name, (total, images) in self._tokens.items() if images}

    @property
    def images(self) -> int:
        """Images encoded so far."""
        return int(self._tokens["patches"][1])

    def _switch(self, push: str | None = None) -> None:
        now = _now()
        if self._open:
            self._segments.append((self._open[-1], self._mark, now))
        if push is None:
            self._open.pop()
        else:
            self._open.append(push)
        self._mark = now
        if not self._open and not isinstance(now, torch.cuda.Event):
            self._resolve()

    def _resolve(self) -> None:
        for name, start, end in self._segments:
            self._seconds[name] += _elapsed(start, end)
        self._segments.clear()


def _now() -> Any:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
    return time.perf_counter()


def _elapsed(start: Any, end: Any) -> float:
    if isinstance(start, torch.cuda.Event):
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000
    return float(end - start)
