"""Dense and plans in turn on every workload, round by round in one process."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tokenprune.bench.backends import fastest_backend
from tokenprune.bench.memory import cache_bytes, peak_bytes
from tokenprune.bench.timer import Speedup, Spread, seconds
from tokenprune.bench.workload import Workload, drawn, synthetic
from tokenprune.engine import attach
from tokenprune.loading import LoadedMllm
from tokenprune.ops.flops import count_flops
from tokenprune.plan import Plan

DENSE = "dense"

Tell = Callable[[int, int, str], None]


@dataclass(frozen=True)
class BenchSettings:
    """How to measure.

    Attributes:
        rounds: measurements of every row; their order is drawn anew in each round.
        warmup: untimed calls of every row before.
        flops: `measured` by the counter, or by `formula`.
        seed: of inputs and orders.
    """

    rounds: int = 7
    warmup: int = 1
    flops: str = "measured"
    seed: int = 0


@dataclass
class Lane:
    """One row of a workload while it is measured.

    Attributes:
        name: plan, or `dense`.
        plan: None for the model without tokenprune.
        first: seconds to the first token, one a round.
        whole: seconds with all new tokens.
        stages: exclusive seconds by stage of the whole calls, summed.
    """

    name: str
    plan: Plan | None
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    tokens: dict[str, float] = field(default_factory=dict)
    flops: float = 0.0
    peak: int = 0
    cache: int = 0


@dataclass(frozen=True)
class BenchRow:
    """What was measured of one plan on one workload.

    Attributes:
        name: plan, or `dense`.
        workload: the input.
        ttft: seconds to the first token.
        token: seconds per further token.
        total: seconds of the whole call.
        speedup: of the time to the first token, against dense.
        stages: mean exclusive seconds by stage of a whole call; `load` is preprocessing.
        tokens: measured visual tokens per image, by stage.
        flops: operations to the first token.
        peak: bytes of tensors, see `peak_bytes`.
        cache: bytes of the KV cache after the call.
    """

    name: str
    workload: Workload
    ttft: Spread
    token: float
    total: Spread
    speedup: Speedup
    stages: dict[str, float]
    tokens: dict[str, float]
    flops: float
    peak: int
    cache: int


def bench(
    loaded: LoadedMllm,
    plans: Sequence[tuple[str, Plan]],
    sizes: Sequence[Workload],
    settings: BenchSettings,
    tell: Tell | None = None,
) -> tuple[str, list[BenchRow]]:
    """Measure every plan and dense on every workload.

    Args:
        loaded: the model.
        plans: name and plan.
        sizes: the workloads.
        settings: how.
        tell: told (runs done, runs in all, what runs).

    Returns:
        The attention backend that was fastest for dense and is used by all, and the rows.

    Raises:
        TokenpruneError: a plan doesn't fit the model.
    """
    for _, plan in plans:
        attach(loaded.model, plan).detach()
    with torch.no_grad():
        backend = fastest_backend(loaded, synthetic(loaded, sizes[0], settings.seed))
        rows: list[BenchRow] = []
        for number, size in enumerate(sizes):

            def told(done: int, total: int, label: str, at: int = number) -> None:
                if tell is not None:
                    tell(at * total + done, total * len(sizes), label)

            rows += _measure(loaded, plans, size, settings, told)
    return backend, rows


def _measure(
    loaded: LoadedMllm,
    plans: Sequence[tuple[str, Plan]],
    size: Workload,
    settings: BenchSettings,
    tell: Tell,
) -> list[BenchRow]:
    device = next(loaded.model.parameters()).device
    inputs = synthetic(loaded, size, settings.seed)
    pictures, questions = drawn(size, settings.seed)
    load = seconds(lambda: loaded.prepare(pictures, questions), device)
    lanes = [Lane(DENSE, None), *(Lane(name, plan) for name, plan in plans)]
    runner = Runner(loaded, inputs, size, device)
    total = len(lanes) * (settings.rounds + 1)
    for number, lane in enumerate(lanes):
        tell(number, total, f"{size.label}: {lane.name}")
        runner.prepare(lane, settings)
    rng = random.Random(settings.seed)
    order = list(lanes)
    for turn in range(settings.rounds):
        rng.shuffle(order)
        for number, lane in enumerate(order):
            tell(len(lanes) * (turn + 1) + number, total, f"{size.label}: {lane.name}")
            runner.time(lane)
    return [_row(lane, lanes[0], size, load, settings.rounds) for lane in lanes]


class Runner:
    """Calls of one model on one input."""

    def __init__(
        self, loaded: LoadedMllm, inputs: dict[str, Any], size: Workload, device: torch.device
    ) -> None:
        self.model: Any = loaded.model
        self.inputs, self.size, self.device = inputs, size, device

    def generate(self, more: int) -> Any:
        """One greedy call that makes the first token and `more` after it."""
        count = 1 + more
        return self.model.generate(
            **self.inputs,
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            return_dict_in_generate=True,
        )

    def prepare(self, lane: Lane, settings: BenchSettings) -> None:
        """Warm up, then what needs no clock: tokens, operations and memory."""
        with attach(self.model, lane.plan or Plan()) as handle:
            for _ in range(settings.warmup):
                self.generate(self.size.new_tokens)
            handle.meter.reset()
            if settings.flops == "formula":
                from tokenprune.bench.formula import model_flops

                self.generate(0)
                lane.flops = model_flops(self.model, handle.trace, self.inputs)
            else:
                with count_flops() as counter:
                    self.generate(0)
                lane.flops = float(counter.total)
            lane.tokens = handle.report().tokens
            lane.peak = peak_bytes(lambda: self.generate(0), self.device)
            answer = self.generate(self.size.new_tokens)
            lane.cache = cache_bytes(getattr(answer, "past_key_values", None))

    def time(self, lane: Lane) -> None:
        """One round: to the first token, and with all new tokens."""
        if lane.plan is None:
            self._clock(lane)
            with attach(self.model, Plan()) as handle:  # the clock of stages, apart from the times
                self.generate(self.size.new_tokens)
                stages = handle.report().seconds
        else:
            with attach(self.model, lane.plan) as handle:
                lane.first.append(seconds(lambda: self.generate(0), self.device))
                handle.meter.reset()
                lane.whole.append(seconds(lambda: self.generate(self.size.new_tokens), self.device))
                stages = handle.report().seconds
        for name, value in stages.items():
            lane.stages[name] += value

    def _clock(self, lane: Lane) -> None:
        lane.first.append(seconds(lambda: self.generate(0), self.device))
        lane.whole.append(seconds(lambda: self.generate(self.size.new_tokens), self.device))


def _row(lane: Lane, dense: Lane, size: Workload, load: float, rounds: int) -> BenchRow:
    more = max(size.new_tokens, 1)
    decode = [(all_ - one) / more for all_, one in zip(lane.whole, lane.first, strict=True)]
    stages = {name: value / rounds for name, value in lane.stages.items()}
    return BenchRow(
        name=lane.name,
        workload=size,
        ttft=Spread.of(lane.first),
        token=Spread.of(decode).p50,
        total=Spread.of(lane.whole),
        speedup=Speedup.of(dense.first, lane.first),
        stages={"load": load, **stages},
        tokens=lane.tokens,
        flops=lane.flops,
        peak=lane.peak,
        cache=lane.cache,
    )
