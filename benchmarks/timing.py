"""Clocks of the benchmarks: a call on its device, and the kernels that it launches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Call = Callable[[], object]


def synchronize(device: torch.device) -> None:
    """Wait for what the device has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Call, device: torch.device) -> float:
    """Seconds of one call, until the device is through with it."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def alternating(calls: Mapping[str, Call], device: torch.device, rounds: int) -> dict[str, float]:
    """Median seconds of each, in turn, after one untimed call each."""
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(seconds(call, device))
    return {name: median(values) for name, values in found.items()}


def launches(call: Call, device: torch.device) -> int | None:
    """Kernels that one call runs on a GPU, by the profiler; None on a CPU, which launches none."""
    if device.type != "cuda":
        return None
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        synchronize(device)
    events: Any = profiler.events()
    return sum("CUDA" in str(event.device_type) for event in events)
