"""Plans on a GPU: recorded and compiled CUDA graphs, and how often a call waits."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests import models
from tests.contract.cases import ENCODER_STAGES, ENCODERS, KEEP, Encoder, attached
from tests.contract.compiling import assert_same, tensors
from tests.contract.test_compiled import MERGING_AND_DROPPING, called
from tokenprune.errors import NotMeasuredError

#: Towers of transformers that look at their masks or at the sizes of pictures.
LOOKING = {"idefics3", "siglip2-vision"}

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def placed(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cuda() for name, value in given.items()}


def assert_replays(call: Any, given: dict[str, Tensor]) -> None:
    """A graph recorded on these inputs gives for others what a call gives."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        call(**given)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = call(**given)
    for value in given.values():
        if value.is_floating_point():
            value.copy_(torch.randn_like(value))
    for one in tensors(recorded):
        if one.is_floating_point():
            one.fill_(torch.nan)
    graph.replay()
    assert_same(recorded, call(**given))


@pytest.mark.parametrize("stage", ENCODER_STAGES)
@torch.inference_mode()
def test_every_static_strategy_can_be_recorded(stage: str) -> None:
    model = models.clip_vision().cuda()
    with attached(model, ENCODER_STAGES[stage], keep=KEEP):
        assert_replays(model, placed({"pixel_values": models.pixels(2)}))


@pytest.mark.parametrize("encoder", sorted(ENCODERS.keys() - LOOKING))
@torch.inference_mode()
def test_every_tower_that_merges_and_drops_can_be_recorded(encoder: str) -> None:
    case: Encoder = ENCODERS[encoder]
    model = case.build().cuda()
    with tokenprune.attach(model, MERGING_AND_DROPPING):
        assert_replays(called(model, encoder), placed(case.inputs(2)))


@pytest.mark.parametrize(
    ("stage", "encoder"),
    [("evoprune", "clip-vision"), ("tome", "timm-vit"), ("fopru", "siglip-vision")],
)
@torch.inference_mode()
def test_reduce_overhead_gives_the_same(stage: str, encoder: str) -> None:
    case = ENCODERS[encoder]
    model, given = case.build().cuda(), placed(case.inputs(2))
    with attached(model, ENCODER_STAGES[stage], keep=KEEP):
        plain = [one.clone() for one in tensors(model(**given))]
        compiled = torch.compile(model, fullgraph=True, mode="reduce-overhead")
        for _ in range(4):  # warms up, records, replays
            assert_same([one.clone() for one in tensors(compiled(**given))], plain)


@pytest.mark.parametrize("stage", ["evoprune", "tome", "fopru", "uniform"])
@torch.inference_mode()
def test_a_call_waits_once(stage: str) -> None:
    model, given = models.clip_vision().cuda(), placed({"pixel_values": models.pixels(2)})
    with attached(model, ENCODER_STAGES[stage], keep=KEEP):
        model(**given)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                model(**given)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert sum("synchroniz" in str(one.message) for one in seen) == 1


@torch.inference_mode()
def test_a_recorded_call_is_not_measured_and_says_so() -> None:
    model, given = models.clip_vision().cuda(), placed({"pixel_values": models.pixels(2)})
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP) as handle:
        assert_replays(model, given)
        handle.meter.reset()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            model(**given)
        report = handle.report()
        assert report.compiled
        assert report.seconds == {}
        with pytest.raises(NotMeasuredError, match="one compiled graph"):
            _ = handle.trace
