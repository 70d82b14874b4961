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


def launched(call: Call, device: torch.device) -> dict[str, float | None]:
    """Kernels that one call runs on a GPU, and their seconds, by the profiler; a CPU has none."""
    if device.type != "cuda":
        return {"launches": None, "kernel_seconds": None}
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        synchronize(device)
    events: Any = profiler.events()
    kernels = [event for event in events if "CUDA" in str(event.device_type)]
    seconds = sum(event.time_range.elapsed_us() for event in kernels) / 1e6
    return {"launches": len(kernels), "kernel_seconds": seconds}


def replayed(call: Call) -> Call:
    """The call recorded as a CUDA graph, which gives the GPU all kernels at once."""
    streams: Any = torch.cuda
    aside = streams.Stream()
    aside.wait_stream(streams.current_stream())
    with streams.stream(aside):  # what is made once is made in front of the recording
        for _ in range(2):
            call()
    streams.current_stream().wait_stream(aside)
    graph: Any = streams.CUDAGraph()
    with streams.graph(graph):
        call()
    replay: Call = graph.replay
    return replay
