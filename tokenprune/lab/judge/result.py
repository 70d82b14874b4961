"""What a judge is given, one run a plan, and what it states of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tokenprune.lab.measure.entries import Entry
from tokenprune.lab.measure.statistics import Array, Interval
from tokenprune.plan import Plan, positions_of

#: The baseline: what any choice of tokens has to beat.
BASELINE = "random"


@dataclass(frozen=True)
class Samples:
    """The samples that all runs answered.

    Attributes:
        images: of every sample, its image; samples of one image are resampled together.
        kinds: of every sample, the type of its question; empty for none.
    """

    images: Sequence[int]
    kinds: Sequence[str]


@dataclass(frozen=True)
class PlanRun:
    """One plan's answers and costs, or those of the dense model.

    Attributes:
        entry: name and plan.
        dense: whether this is the model without a plan.
        right: whether every answer is right, `[samples]`.
        answers: one a sample.
        wall: seconds of every batch.
        dense_wall: seconds of every batch of the dense model that took turns with the plan.
        tokens: mean tokens per image by stage.
        seconds: exclusive seconds by stage, over all batches.
        flops: operations per sample, mean over the `counted` ones.
        dense_flops: the same of the dense model.
        dense_seconds: exclusive seconds by stage of the dense model that took turns with the plan,
            over all batches; empty where they weren't measured.
        lengths: tokens of every image, mean over the LLM's layers, where the plan sets no number.
        scores: by metric, one score a sample.
        failures: checks of the run that failed.
        peak_bytes: most memory of the batch with the largest inputs; None where it wasn't measured.
        shown: pictures for a report.
        title: what warnings call the row; default: its name.
        varied: what a grid put into the plan, by dotted place.
        unknown: words of the questions that the model's tokenizer doesn't know.
        lost: why samples were left out, one reason each.
        counted: samples on which operations were counted, spread evenly over all; 0 where a record
            doesn't say.
        answered: samples that times, tokens and operations are of; more than those of `right` where
            other runs left out some of them. 0: as many.
    """

    entry: Entry
    dense: bool
    right: Array
    answers: Sequence[str]
    wall: Sequence[float]
    dense_wall: Sequence[float]
    tokens: Mapping[str, float]
    seconds: Mapping[str, float]
    flops: float
    dense_flops: float
    dense_seconds: Mapping[str, float] = field(default_factory=dict)
    lengths: Sequence[float] = ()
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    failures: Sequence[str] = ()
    peak_bytes: int | None = None
    shown: Sequence[Mapping[str, Any]] = ()
    title: str = ""
    varied: Mapping[str, Any] = field(default_factory=dict)
    unknown: Sequence[str] = ()
    lost: Sequence[str] = ()
    counted: int = 0
    answered: int = 0

    @property
    def ran(self) -> int:
        """Samples that times, tokens and operations are of."""
        return self.answered or len(self.right)

    @property
    def plan(self) -> Plan:
        """The plan; without stages for the dense model."""
        return self.entry.plan

    @property
    def baseline(self) -> bool:
        """Whether all stages of the plan keep random tokens."""
        return {stage.strategy for stage in self.plan.stages} == {BASELINE}

    @property
    def mean_tokens(self) -> float:
        """Visual tokens per image: mean over the LLM's layers, or what a plain encoder puts out.

        It is nan where neither was counted, which is close to nothing.
        """
        return float(self.tokens.get("llm_average", self.tokens.get("encoder", float("nan"))))


@dataclass(frozen=True)
class Result:
    """What a run states, among the others on the same samples.

    Attributes:
        run: what was measured.
        accuracy: share of right answers.
        retention: accuracy as a share of the dense accuracy; None without dense.
        difference: accuracy minus that of dense, paired by sample; None without dense.
        versus_random: accuracy minus the mean of `random` over its seeds, see
            `tokenprune.lab.judge.judge.baselines`; None without such a run.
        seeds: how many `random` runs that mean is over.
        mcnemar: exact p of McNemar's test against dense; None without dense.
        agreement: share of answers equal to the dense ones; None without dense.
        by_type: accuracy by question type.
        metrics: means of further metrics.
        flops_ratio: operations as a share of dense.
        total: seconds as a share of dense, over the same batches; without an interval where these
            are fewer than `statistics.ENOUGH`.
        warnings: what to beware of, in words.
        images: number of different images.
        unseen: how far below the lower end of `difference` a loss may lie that no image shows, by
            the rule of three; 0 where images show losses, and without dense.
        probe: by place, the share of the encoder's information that can still be read there.
    """

    run: PlanRun
    accuracy: Interval
    retention: Interval | None
    difference: Interval | None
    versus_random: Interval | None
    seeds: int
    mcnemar: float | None
    agreement: float | None
    by_type: Mapping[str, float]
    metrics: Mapping[str, Interval]
    flops_ratio: float
    total: Interval
    warnings: tuple[str, ...]
    images: int
    unseen: float
    probe: Mapping[str, Interval] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Strategy or plan; `dense` for the model alone."""
        return self.run.entry.name

    @property
    def title(self) -> str:
        """What warnings call the row."""
        return self.run.title or self.name

    @property
    def keep(self) -> str:
        """The budget as it is shown: one number a stage."""
        return self.run.entry.keep

    @property
    def positions(self) -> str:
        """Position ids of the survivors."""
        return positions_of(self.run.plan)

    @property
    def counted_on(self) -> str:
        """On how many samples operations were counted, in words; empty where no record says."""
        counted, samples = self.run.counted, self.run.ran
        if not counted:
            return ""
        if counted >= samples:
            return "all samples"
        return f"{counted} of {samples} samples, of batches spread evenly over all"

    @property
    def tokens(self) -> Mapping[str, float]:
        """Measured mean tokens per image by stage."""
        return self.run.tokens

    @property
    def seconds(self) -> dict[str, float]:
        """Exclusive seconds per sample by stage."""
        return {stage: spent / self.run.ran for stage, spent in self.run.seconds.items()}

    @property
    def time(self) -> dict[str, float | None]:
        """Seconds by stage as a share of the same stage of dense, where that was measured.

        `select` is a share of the whole dense time, because dense selects nothing.
        """
        dense = self.run.dense_seconds
        if not dense:
            return {}
        return {
            stage: spent / dense[stage] if dense.get(stage) else None
            for stage, spent in self.run.seconds.items()
        }

    @property
    def lengths(self) -> dict[str, float] | None:
        """Least, middle and most tokens of an image, where the method sets their number."""
        lengths = self.run.lengths
        if not lengths:
            return None
        return {"least": min(lengths), "middle": float(np.median(lengths)), "most": max(lengths)}
