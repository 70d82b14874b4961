"""What a budget has to hold: a loss of accuracy, or a share of the dense model's cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from tokenprune.lab.judge.result import Result


class Goal(Protocol):
    """A condition that larger budgets meet and smaller ones don't, or the other way round.

    Attributes:
        smallest: whether the smallest budget that holds is looked for; else the largest.
    """

    smallest: ClassVar[bool]

    @property
    def words(self) -> str:
        """The condition, as it stands behind "a keep that holds:"."""
        ...

    def holds(self, result: Result) -> bool:
        """Whether a budget with this result holds."""
        ...


@dataclass(frozen=True)
class Within:
    """At most so many points of accuracy below dense, on the same samples.

    Attributes:
        points: percentage points.
        sure: whether the lower end of the 95 % interval has to hold too.
    """

    smallest: ClassVar[bool] = True

    points: float
    sure: bool = False

    @property
    def words(self) -> str:
        """The condition in words."""
        what = "the lower end of the 95 % interval" if self.sure else "accuracy"
        return f"{what} at most {self.points:g} points below dense"

    def holds(self, result: Result) -> bool:
        """Whether the paired difference to dense is within the points."""
        assert result.difference is not None
        reached = result.difference.low if self.sure else result.difference.value
        return 100 * reached >= -self.points


@dataclass(frozen=True)
class Flops:
    """At most this share of the dense model's operations, counted on the first batch.

    Attributes:
        share: between 0 and 1.
    """

    smallest: ClassVar[bool] = False

    share: float

    @property
    def words(self) -> str:
        """The condition in words."""
        return f"FLOPs at most {self.share:g} of dense"

    def holds(self, result: Result) -> bool:
        """Whether the operations are within the share."""
        return result.flops_ratio <= self.share


@dataclass(frozen=True)
class Time:
    """At most this share of the dense model's time, measured in turns with it.

    Attributes:
        share: between 0 and 1.
        sure: whether the upper end of the 95 % interval has to hold too.
    """

    smallest: ClassVar[bool] = False

    share: float
    sure: bool = False

    @property
    def words(self) -> str:
        """The condition in words."""
        what = "the upper end of the time's 95 % interval" if self.sure else "time"
        return f"{what} at most {self.share:g} of dense"

    def holds(self, result: Result) -> bool:
        """Whether the time is within the share."""
        return (result.total.high if self.sure else result.total.value) <= self.share
