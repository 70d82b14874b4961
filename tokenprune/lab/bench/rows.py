"""What a benchmark collects, and what it hands back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from torch import nn

from tokenprune.engine.attach import attach
from tokenprune.engine.attachment import Attachment
from tokenprune.engine.conditions import Checks
from tokenprune.lab.bench.timer import Speedup, Spread
from tokenprune.lab.bench.workload import Workload
from tokenprune.plan import Plan

DENSE = "dense"
COMPILED = ", compiled"


@dataclass
class Lane:
    """One row of a workload while it is measured.

    Attributes:
        name: plan, or `dense`.
        plan: None for the model without tokenprune.
        model: what is called.
        handle: of a compiled copy, which carries its plan all the time.
        twin: the same row uncompiled; None if this isn't compiled.
        first: seconds to the first token, one a round; of the whole pass for classifiers.
        whole: seconds with all new tokens; empty for classifiers.
        stages: exclusive seconds by stage of the whole calls, summed.
        checks: what was found right before anything was timed; every call attaches anew.
    """

    name: str
    plan: Plan | None
    model: nn.Module
    handle: Attachment | None = None
    twin: Lane | None = None
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    tokens: dict[str, float] = field(default_factory=dict)
    flops: float = 0.0
    peak: int | None = None
    cache: int | None = None
    checks: Checks = field(default_factory=Checks)

    @property
    def dense(self) -> bool:
        """Whether nothing is removed."""
        return self.plan is None

    @contextmanager
    def attached(self) -> Iterator[Attachment]:
        """The handle of this row's plan; an empty plan's for dense."""
        if self.handle is not None:
            self.handle.meter.reset()
            yield self.handle
            return
        with attach(self.model, self.plan or Plan(), checks=self.checks) as handle:
            yield handle

    def take_over(self) -> None:
        """What compiling doesn't change: tokens, operations and the cache."""
        if self.twin is not None:
            self.tokens, self.flops = self.twin.tokens, self.twin.flops
            self.cache = self.twin.cache


@dataclass(frozen=True)
class BenchRow:
    """What was measured of one plan on one workload.

    Attributes:
        name: plan, or `dense`; `, compiled` behind it if so.
        workload: the input.
        ttft: seconds to the first token; None for classifiers.
        token: seconds per further token; None for classifiers.
        total: seconds of the whole call; of classifiers, of the encoder with its head.
        speedup: of the time to the first token (else of the call), against the baseline.
        stages: mean exclusive seconds by stage of a whole call; `load` is preprocessing.
        tokens: measured visual tokens per image, by stage, mean over the inputs.
        flops: operations to the first token, of the whole call for classifiers; mean over the
            inputs.
        peak: bytes of tensors, see `peak_bytes`, of the input that takes most; None where it can't
            be seen.
        cache: bytes of the KV cache after the call, of the input with the largest; None without
            one.
        compiled: whether `torch.compile` was used.
        baseline: whether it is the dense row that the others are compared with: the fastest.
        attention: the workload's backend, on which dense was fastest; all its rows use it.
    """

    name: str
    workload: Workload
    ttft: Spread | None
    token: float | None
    total: Spread
    speedup: Speedup
    stages: dict[str, float]
    tokens: dict[str, float]
    flops: float
    peak: int | None
    cache: int | None
    compiled: bool = False
    baseline: bool = False
    attention: str = ""


def attention_of(rows: Sequence[BenchRow]) -> list[str]:
    """The backends that dense was fastest on, each once; more than one if workloads differ."""
    return list(dict.fromkeys(row.attention for row in rows))


def rows_of(lanes: list[Lane], size: Workload, load: float, attention: str = "") -> list[BenchRow]:
    """Rows of measured lanes; the faster of the dense ones is the baseline."""
    base = min((lane for lane in lanes if lane.dense), key=lambda lane: median(lane.first))
    return [_row(lane, base, size, load, attention) for lane in lanes]


def _row(lane: Lane, base: Lane, size: Workload, load: float, attention: str) -> BenchRow:
    more = max(size.new_tokens, 1)
    decode = [(all_ - one) / more for all_, one in zip(lane.whole, lane.first, strict=False)]
    stages = {name: value / len(lane.first) for name, value in lane.stages.items()}
    return BenchRow(
        name=lane.name + (COMPILED if lane.twin else ""),
        workload=size,
        ttft=Spread.of(lane.first) if lane.whole else None,
        token=Spread.of(decode).p50 if decode else None,
        total=Spread.of(lane.whole or lane.first),
        speedup=Speedup.of(base.first, lane.first),
        stages={"load": load, **stages},
        tokens=lane.tokens,
        flops=lane.flops,
        peak=lane.peak,
        cache=lane.cache,
        compiled=lane.twin is not None,
        baseline=lane is base,
        attention=attention,
    )
