"""The course of a run: means of the metrics over equal stretches of steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

POINTS = 60


@dataclass
class Curve:
    """Means of loss and metrics.

    Attributes:
        every: steps a point.
        points: the points so far: last step, phase, learning rate, means.
        sums: of the stretch that is running.
        count: its steps.
    """

    every: int
    points: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, steps: int) -> Curve:
        """An empty curve for a run of so many steps."""
        return cls(max(1, steps // POINTS))

    def add(
        self, step: int, phase: str, rate: float, values: Mapping[str, float], *, last: bool
    ) -> None:
        """Take in a finished step, from 0; `last` ends a stretch early."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        if (step + 1) % self.every and not last:
            return
        means = {name: round(total / self.counts[name], 5) for name, total in self.sums.items()}
        self.points.append({"step": step + 1, "phase": phase, "lr": round(rate, 8), **means})
        self.sums, self.counts = {}, {}

    @property
    def latest(self) -> dict[str, float]:
        """Means of the running stretch, or those of the last point."""
        if self.sums:
            return {name: total / self.counts[name] for name, total in self.sums.items()}
        return self.points[-1] if self.points else {}
