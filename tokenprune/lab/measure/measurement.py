"""What was measured of plans and of dense beside them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tokenprune.engine.conditions import Checks
from tokenprune.engine.meter import Meter
from tokenprune.errors import TokenpruneError
from tokenprune.errors.raised import raised
from tokenprune.lab.measure.entries import Entry


@dataclass
class Beside:
    """What dense took beside a plan: in the same process, batch by batch, in turns with it.

    Attributes:
        wall: seconds of every batch of the model alone.
        idle_wall: the same with a plan without stages.
        idle: exclusive seconds by stage with that plan, over all batches.
    """

    wall: list[float]
    idle_wall: list[float]
    idle: dict[str, float]


@dataclass
class Measured:
    """What was measured of one plan.

    Attributes:
        entry: the plan; None for the model without tokenprune.
        answers: by number of the sample.
        wall: seconds of every batch.
        seconds: exclusive seconds by stage, over all batches.
        tokens: mean tokens per image by stage.
        flops: operations per sample, mean over the `counted` ones.
        lengths: tokens of every image, mean over the LLM's layers, where the plan sets no number.
        beside: dense, as it ran beside this; set at the end.
        failure: why the plan of an optional row can't run; empty if it can.
        tiles: mean pieces in which the tower saw an image.
        checks: what was found right before anything was timed; every run attaches anew.
        counted: samples on which operations were counted; the same ones of every plan.
        images: that `tiles` is a mean over.
        counts: by stage the tokens and the images that `tokens` are means of.
    """

    entry: Entry | None
    answers: dict[int, str] = field(default_factory=dict)
    wall: list[float] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    tokens: dict[str, float] = field(default_factory=dict)
    flops: float = 0.0
    lengths: list[float] = field(default_factory=list)
    beside: Beside | None = None
    failure: str = ""
    tiles: float = 1.0
    checks: Checks = field(default_factory=Checks)
    counted: int = 0
    images: int = 0
    counts: dict[str, Sequence[float]] = field(default_factory=dict)

    def count(self, meter: Meter) -> None:
        """Take a batch's counts into the means of all: not every stage counts every image."""
        for stage, mine in meter.counts.items():
            before = self.counts.get(stage, (0.0, 0.0))
            tokens, of = self.counts[stage] = (before[0] + mine[0], before[1] + mine[1])
            if of:
                self.tokens[stage] = tokens / of
        seen, images = self.images, meter.images
        tiles = 1.0 if meter.tiles is None else meter.tiles
        self.tiles = (self.tiles * seen + tiles * images) / max(seen + images, 1)
        self.images += images

    def count_flops(self, total: int, samples: int) -> None:
        """Take the operations of some samples into the mean of all."""
        self.flops = (self.flops * self.counted + total) / (self.counted + samples)
        self.counted += samples


@dataclass
class Measurement:
    """Everything that was measured in one run.

    Attributes:
        dense: the model without tokenprune.
        idle: the model with a plan without stages; its answers must be the dense ones, and it
            says how the dense time is spread over the stages.
        plans: one per entry.
        again: dense and idle of further processes and passes; their answers must be the same.
        lost: by number of the sample, why it was left out of every row.
        largest: numbers of the samples of the batch whose inputs hold the most elements.
        resumed: how many of its batches an earlier run measured, see `journal`.
    """

    dense: Measured
    idle: Measured
    plans: list[Measured]
    again: list[Measured] = field(default_factory=list)
    lost: dict[int, str] = field(default_factory=dict)
    largest: Sequence[int] = ()
    resumed: int = 0

    @property
    def batches(self) -> int:
        """How many were measured, over all processes and passes."""
        again = [len(row.wall) for row in self.again if row.entry is None]
        return len(self.dense.wall) + sum(again)

    @property
    def numbers(self) -> list[int]:
        """The samples that every row answered, in order."""
        return [number for number in self.dense.answers if number not in self.lost]

    def said(self, row: Measured) -> list[str]:
        """A row's answers to the samples of `numbers`."""
        return [row.answers[number] for number in self.numbers]

    def complete(self) -> Measurement:
        """The same without the rows that are left out."""
        return replace(self, plans=[row for row in self.plans if not row.failure])

    def left_out(self) -> list[str]:
        """A sentence about every optional row that can't run."""
        failed = [(row.entry, row.failure) for row in self.plans if row.entry and row.failure]
        return [f"{entry.name} is left out: {failure}" for entry, failure in failed]


def why(error: Exception, *kinds: type) -> str:
    """The reason why a row is left out, in words.

    Args:
        error: what was raised.
        *kinds: classes of the row's strategies, whose own code may be to blame.
    """
    if isinstance(error, TokenpruneError):
        return error.message
    return f"it {raised(error, *kinds)}"


def joined(parts: Sequence[Measurement], places: Sequence[Sequence[int]]) -> Measurement:
    """One measurement of several parts; every plan keeps the dense times of its own part.

    Args:
        parts: at least one.
        places: of every plan of every part, its place in the whole.
    """
    found = {
        place: row
        for part, mine in zip(parts, places, strict=True)
        for place, row in zip(mine, part.plans, strict=True)
    }
    again = [row for part in parts[1:] for row in (part.dense, part.idle)]
    again += [row for part in parts for row in part.again]
    plans = [found[place] for place in sorted(found)]
    lost = {number: why for part in parts for number, why in part.lost.items()}
    first, resumed = parts[0], sum(part.resumed for part in parts)
    return Measurement(first.dense, first.idle, plans, again, lost, first.largest, resumed)
