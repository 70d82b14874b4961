"""Seconds of a call, on the device's own clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call; CUDA events on a GPU, the wall clock elsewhere."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    events: Any = torch.cuda.Event
    begin, end = events(enable_timing=True), events(enable_timing=True)
    torch.cuda.synchronize(device)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000


@dataclass(frozen=True)
class Spread:
    """Percentiles of several measurements of one thing.

    Attributes:
        p50: the median.
        p95: the 95th percentile.
    """

    p50: float
    p95: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Percentiles, interpolated."""
        return cls(float(np.percentile(values, 50)), float(np.percentile(values, 95)))


@dataclass(frozen=True)
class Speedup:
    """How many times faster than dense, from pairs measured in the same round.

    Attributes:
        median: of the rounds' ratios; above 1 is faster.
        low: lower quartile.
        high: upper quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, dense: Sequence[float], other: Sequence[float]) -> Speedup:
        """Ratios dense / other, round by round."""
        ratios = np.asarray(dense) / np.asarray(other)
        low, median, high = np.percentile(ratios, (25, 50, 75))
        return cls(float(median), float(low), float(high))

    @property
    def words(self) -> str:
        """What the ratio means, in words."""
        return self.against("dense")

    def against(self, base: str) -> str:
        """What the ratio to `base` means, in words."""
        if self.low > 1:
            return f"{self.median:.2f}x faster than {base}"
        if self.high < 1:
            return f"a net loss: {1 / self.median:.2f}x slower than {base}"
        return f"not told apart from {base}"
