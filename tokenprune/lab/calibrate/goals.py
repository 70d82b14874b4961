"""What a budget has to hold: a loss of accuracy, or a share of the dense model's cost."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Protocol

from tokenprune.errors.words import these
from tokenprune.lab.judge.result import Result
from tokenprune.lab.measure.statistics import ENOUGH

#: What rounding may add to points: they are computed from shares.
ROUNDING = 1e-9


class Goal(Protocol):
    """A condition that larger budgets meet and smaller ones don't, or the other way round.

    Attributes:
        smallest: whether the smallest budget that holds is looked for; else the largest.
        heading: of the column of results that it is about.
    """

    smallest: ClassVar[bool]
    heading: ClassVar[str]

    @property
    def words(self) -> str:
        """The condition, as it stands behind "a keep that holds:"."""
        ...

    @property
    def batches(self) -> int:
        """How many batches a result needs at least; of fewer, none holds."""
        ...

    def reached(self, result: Result) -> float:
        """What a budget came to, in the column's unit for people."""
        ...

    def within(self, reached: float) -> bool:
        """Whether such a number is on the right side of the limit."""
        ...

    def holds(self, result: Result) -> bool:
        """Whether a budget with this result holds."""
        ...

    def caution(self, result: Result) -> str:
        """What the samples of a result are too few for, in words; empty if they are enough."""
        ...


@dataclass(frozen=True)
class Within:
    """At most so many points of accuracy below dense, on the same samples.

    Attributes:
        points: percentage points.
        sure: whether the lower end of the 95 % interval has to hold too; where no picture shows a
            loss, what the rule of three can't exclude is below it.
    """

    smallest: ClassVar[bool] = True
    heading: ClassVar[str] = "vs dense"
    batches: ClassVar[int] = 1

    points: float
    sure: bool = False

    @property
    def words(self) -> str:
        """The condition in words."""
        what = "the lower end of the 95 % interval" if self.sure else "accuracy"
        return f"{what} at most {self.points:g} points below dense"

    def reached(self, result: Result) -> float:
        """Points of the paired difference to dense, or the least that isn't excluded."""
        assert result.difference is not None
        return 100 * (lowest(result) if self.sure else result.difference.value)

    def within(self, reached: float) -> bool:
        """Whether as many points are lost at most."""
        return reached >= -self.points - ROUNDING

    def holds(self, result: Result) -> bool:
        """Whether the paired difference to dense is within the points."""
        return self.within(self.reached(result))

    def caution(self, result: Result) -> str:
        """Whether a loss beyond the points may be hidden, though no picture shows one."""
        hidden = -100 * lowest(result)
        if not result.unseen or hidden <= self.points + ROUNDING:
            return ""
        said = (
            f"with {these(result.images, 'picture')} a loss of up to {hidden:.1f} points can't be "
            "excluded (rule of three)"
        )
        if not self.sure:
            return said
        if not self.points:
            return f"not sure: {said}"
        enough = ceil(300 / self.points)
        return f"not sure: {said}; {self.points:g} points take about {enough} pictures"


@dataclass(frozen=True)
class Flops:
    """At most this share of the dense model's operations, counted on batches spread evenly.

    Attributes:
        share: between 0 and 1.
    """

    smallest: ClassVar[bool] = False
    heading: ClassVar[str] = "FLOPs / dense"
    batches: ClassVar[int] = 1

    share: float

    @property
    def words(self) -> str:
        """The condition in words."""
        return f"FLOPs at most {self.share:g} of dense"

    def reached(self, result: Result) -> float:
        """The operations as a share of dense."""
        return result.flops_ratio

    def within(self, reached: float) -> bool:
        """Whether they are the share at most."""
        return reached <= self.share

    def holds(self, result: Result) -> bool:
        """Whether the operations are within the share."""
        return self.within(self.reached(result))

    def caution(self, result: Result) -> str:
        """Nothing: operations are counted."""
        return ""


@dataclass(frozen=True)
class Time:
    """At most this share of the dense model's time, measured in turns with it.

    Attributes:
        share: between 0 and 1.
        sure: whether the upper end of the 95 % interval has to hold too; of fewer than `ENOUGH`
            batches there is no such interval, and nothing is sure.
    """

    smallest: ClassVar[bool] = False
    heading: ClassVar[str] = "time / dense"

    share: float
    sure: bool = False

    @property
    def batches(self) -> int:
        """See `Goal`."""
        return ENOUGH if self.sure else 1

    @property
    def words(self) -> str:
        """The condition in words."""
        what = "the upper end of the time's 95 % interval" if self.sure else "time"
        return f"{what} at most {self.share:g} of dense"

    def reached(self, result: Result) -> float:
        """The time as a share of dense, or the upper end of its interval."""
        return result.total.high if self.sure else result.total.value

    def within(self, reached: float) -> bool:
        """Whether it is the share at most."""
        return reached <= self.share

    def holds(self, result: Result) -> bool:
        """Whether the time is within the share."""
        return len(result.run.wall) >= self.batches and self.within(self.reached(result))

    def caution(self, result: Result) -> str:
        """Whether the times are of too few batches for an interval."""
        count = len(result.run.wall)
        if count >= ENOUGH:
            return ""
        batches = "one batch" if count == 1 else f"{count} batches"
        unsure = "not sure: " if self.sure else ""
        return f"{unsure}times of {batches} have no 95 % interval; it takes {ENOUGH} or more"


def lowest(result: Result) -> float:
    """The least difference to dense that isn't excluded: the interval's end, and what it hides."""
    assert result.difference is not None
    return max(result.difference.low - result.unseen, -1.0)
