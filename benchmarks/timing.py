"""Clocks of the benchmarks: a call on its device, and the kernels that it launches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Call = Callable[[], object]

#: Seconds that a GPU is kept busy ahead of a call, beside twice the call's own (ours).
LEAD = 0.002
#: Ticks a second of the clocks of GPUs, roughly; it only says how long that is.
CLOCK = 2e9


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


def queued(calls: Mapping[str, Call], device: torch.device, rounds: int) -> dict[str, float | None]:
    """Median seconds that a GPU alone needs for each, from its first kernel to its last, in turn.

    A kernel that does nothing runs ahead, until the CPU has queued all of the call. A call that
    waits for the GPU itself can't be queued, and has no such time; nor has any on a CPU.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    if device.type != "cuda":
        return dict.fromkeys(calls)
    cuda: Any = torch.cuda
    ahead = {name: 2 * seconds(call, device) + LEAD for name, call in calls.items()}
    for _ in range(rounds):
        for name, call in calls.items():
            start, end = (cuda.Event(enable_timing=True) for _ in range(2))
            synchronize(device)
            cuda._sleep(int(ahead[name] * CLOCK))
            start.record()
            call()
            waited = start.query()
            end.record()
            synchronize(device)
            if not waited:
                found[name].append(start.elapsed_time(end) / 1e3)
    return {name: median(times) if times else None for name, times in found.items()}


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
