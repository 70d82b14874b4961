"""The calls that are timed: generation by a multimodal LLM, one pass of an encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import torch

from tokenprune.engine.adapters import choose_adapter
from tokenprune.engine.attachment import Attachment
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.loading import LoadedEncoder, LoadedMllm, LoadedModel
from tokenprune.lab.bench.formula import watched
from tokenprune.lab.bench.rows import Lane
from tokenprune.lab.bench.settings import BenchSettings
from tokenprune.lab.bench.timer import seconds
from tokenprune.lab.bench.workload import Prompts, Workload
from tokenprune.lab.measure.memory import cache_bytes, peak_bytes
from tokenprune.ops.flops import count_flops

Call = Callable[[Lane, Any], Any]


class Timed(ABC):
    """Calls on the batches of one workload; round after round takes the next batch.

    Args:
        device: where the model runs.
        batches: prepared inputs.
        size: the workload.
    """

    def __init__(self, device: torch.device, batches: Sequence[Any], size: Workload) -> None:
        self.device, self.batches, self.size = device, batches, size

    @abstractmethod
    def first(self, lane: Lane, inputs: Any) -> Any:
        """A call to the first token; of a classifier, the call."""

    @property
    def calls(self) -> Sequence[Call]:
        """What is timed: `first`, and the whole call where more follows."""
        return (self.first,)

    def time(self, lane: Lane, turn: int) -> None:
        """One round of one lane; dense by stage in a call of its own, apart from the times."""
        inputs = self.batches[turn % len(self.batches)]
        if not lane.dense:
            with lane.attached() as handle:
                self._clock(lane, inputs, handle)
                _add(lane, handle.report().seconds)
            return
        self._clock(lane, inputs)
        if lane.twin is None:
            with lane.attached() as handle:
                self.calls[-1](lane, inputs)
                _add(lane, handle.report().seconds)

    def _clock(self, lane: Lane, inputs: Any, handle: Attachment | None = None) -> None:
        """Time every call; what a handle tells of stages afterwards is of the last one."""
        for times, call in zip((lane.first, lane.whole), self.calls, strict=False):
            if handle is not None:
                handle.meter.reset()
            times.append(seconds(partial(call, lane, inputs), self.device))

    def warm(self, lane: Lane) -> None:
        """One untimed call of each kind on every batch."""
        for inputs in self.batches:
            for call in self.calls:
                call(lane, inputs)

    def prepare(self, lane: Lane, settings: BenchSettings) -> None:
        """Warm up, then what needs no clock, on every batch: tokens, operations, memory."""
        with lane.attached() as handle:
            for _ in range(settings.warmup):
                self.warm(lane)
            handle.meter.reset()
            count = self._formula if settings.flops == "formula" else self._measured
            lane.flops = fmean(count(lane, one) for one in self.batches)
            lane.tokens = handle.report().tokens
            lane.peak = max(self._peak(lane, one) for one in self.batches)
            caches = [self.cache(lane, one) for one in self.batches]
            lane.cache = max((one for one in caches if one is not None), default=None)

    def _formula(self, lane: Lane, inputs: Any) -> float:
        with watched(lane.model) as seen:
            self.first(lane, inputs)
        return seen.flops

    def _measured(self, lane: Lane, inputs: Any) -> float:
        with count_flops() as counter:
            self.first(lane, inputs)
        return float(counter.total)

    def _peak(self, lane: Lane, inputs: Any) -> int:
        return peak_bytes(lambda: self.first(lane, inputs), self.device)

    def cache(self, lane: Lane, inputs: Any) -> int | None:
        """Bytes of the KV cache after a whole call."""
        return None


class Generation(Timed):
    """Greedy generation."""

    def first(self, lane: Lane, inputs: Any) -> Any:
        """One new token."""
        return self._generate(lane, inputs, 1)

    @property
    def calls(self) -> Sequence[Call]:
        """To the first token, and with all."""
        return (self.first, self.whole)

    def whole(self, lane: Lane, inputs: Any) -> Any:
        """The first token and all after it."""
        return self._generate(lane, inputs, 1 + self.size.new_tokens)

    def cache(self, lane: Lane, inputs: Any) -> int | None:
        """Bytes of the KV cache after a whole call."""
        adapter = choose_adapter(lane.model)
        assert isinstance(adapter, MllmAdapter)
        return cache_bytes(adapter.outputs_cache(self.whole(lane, inputs)))

    def _generate(self, lane: Lane, inputs: Any, count: int) -> Any:
        model: Any = lane.model
        return model.generate(
            **inputs,
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            return_dict_in_generate=True,
        )


class Encoding(Timed):
    """One pass of an encoder with its head.

    Args:
        device: where the model runs.
        batches: prepared inputs.
        size: the workload.
        loaded: the model.
    """

    def __init__(
        self,
        device: torch.device,
        batches: Sequence[Any],
        size: Workload,
        loaded: LoadedEncoder,
    ) -> None:
        super().__init__(device, batches, size)
        self._call = loaded.call

    def first(self, lane: Lane, inputs: Any) -> Any:
        """Logits `[B, classes]`, or embeddings `[B, D]` of a dual encoder."""
        return self._call(lane.model, inputs)


def runner_for(
    loaded: LoadedModel, batches: Sequence[Prompts], size: Workload
) -> tuple[Timed, float]:
    """The runner of a model on these batches, and the seconds to prepare the first of them."""
    device = next(loaded.model.parameters()).device
    inputs: list[Any] = []

    def prepare(prompts: Prompts) -> None:
        inputs.append(loaded.inputs(*prompts))

    prepare(batches[0])  # what is set up at the first use is no preprocessing
    inputs.clear()
    times = [seconds(lambda one=one: prepare(one), device) for one in batches]  # type: ignore[misc]
    if isinstance(loaded, LoadedMllm):
        return Generation(device, inputs, size), times[0]
    return Encoding(device, inputs, size, loaded), times[0]


def _add(lane: Lane, stages: dict[str, float]) -> None:
    for name, value in stages.items():
        lane.stages[name] += value
