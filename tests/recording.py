"""A recorder for tests without a GPU: its graphs write to the same memory at every replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenprune.engine.capturing import Replay, rehearse
from tokenprune.engine.copies import Copies


class Simulated:
    """Records on the CPU: a replay runs the function again, and writes over what it gave first.

    As in a CUDA graph, nothing is computed by recording: until the first replay, what the function
    gave holds NaN.

    Attributes:
        recorded: functions that were recorded.
        replayed: replays.
    """

    def __init__(self) -> None:
        self.recorded = self.replayed = self.released = 0

    def serves(self, device: torch.device) -> bool:
        return device.type == "cpu"

    def record(self, run: Callable[[], Any], device: torch.device) -> tuple[Replay, Any]:
        rehearse(run, device)
        made, other = run(), run()
        written = Copies(made).tensors
        # weights, inputs and constants stand at the same place in both
        own = [
            one.data_ptr() != two.data_ptr()
            for one, two in zip(written, Copies(other).tensors, strict=True)
        ]
        for one, mine in zip(written, own, strict=True):
            if mine and one.is_floating_point():
                _stored(one).fill_(torch.nan)
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            now = Copies(run()).tensors
            for one, new, mine in zip(written, now, own, strict=True):
                if mine:
                    _write(one, new)

        return replay, made

    @contextmanager
    def turn(self, device: torch.device) -> Iterator[None]:
        yield

    def release(self) -> None:
        self.released += 1


def _stored(one: Tensor) -> Tensor:
    """A tensor without the axes along which it repeats the same memory."""
    for axis, stride in enumerate(one.stride()):
        if stride == 0:
            one = one.narrow(axis, 0, 1)
    return one


def _write(one: Tensor, new: Tensor) -> None:
    for axis, stride in enumerate(one.stride()):
        if stride == 0:
            one, new = one.narrow(axis, 0, 1), new.narrow(axis, 0, 1)
    one.copy_(new)


def simulate(monkeypatch: pytest.MonkeyPatch) -> Simulated:
    """Let `record()` simulate graphs on the CPU in this test."""
    recorder = Simulated()
    monkeypatch.setattr("tokenprune.engine.encoder.recording.new_recorder", lambda: recorder)
    return recorder
