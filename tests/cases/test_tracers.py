"""Exporters and tracers record what the plan does, or are refused by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx

import tokenprune
from tests import models
from tests.mllm.calls import SHORT, inputs, logits
from tests.mllm.plans import plan, tome
from tokenprune.errors import NotMeasuredError, UnsupportedCallError

X, OTHER = models.pixels(), models.pixels(seed=5)
TOME = plan(tome())


def states(output: Any) -> Tensor:
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found


@pytest.mark.parametrize("family", ["clip_vision", "timm_vit"])
@torch.no_grad()
def test_export_records_the_plan_for_batches_of_any_size(family: str) -> None:
    model = Calling(getattr(models, family)())
    open_sizes = {"x": {0: torch.export.Dim("batch", min=2, max=8)}}
    pictures = (X, OTHER, models.pixels(3, seed=6))
    with tokenprune.attach(model.inside, TOME) as handle:
        graph = torch.export.export(model, (X,), strict=False, dynamic_shapes=open_sizes)
        with pytest.raises(NotMeasuredError):
            _ = handle.trace
        assert not handle.meter.calls
        expected = [states(model(some)) for some in pictures]
    recorded: Any = graph.module()
    for some, wanted in zip(pictures, expected, strict=True):
        torch.testing.assert_close(states(recorded(some)), wanted)


@torch.no_grad()
def test_a_multimodal_llm_is_not_exported_with_a_plan() -> None:
    model, call = models.llava_clip(), inputs(SHORT)
    with tokenprune.attach(model, TOME):
        wanted = logits(model, call)
        with pytest.raises(UnsupportedCallError, match=r"torch\.export, Llava.*vision tower"):
            torch.export.export(model, (), {**call, "use_cache": False}, strict=False)
        assert torch.equal(logits(model, call), wanted)


def traced(model: Any) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(model, (X,), strict=False, check_trace=False)


def symbolic(model: Any) -> object:
    class Symbolic(fx.Tracer):
        def is_leaf_module(self, m: torch.nn.Module, name: str) -> bool:
            return m is not model

    return Symbolic().trace(Calling(model))


class Calling(torch.nn.Module):
    """A pipeline with an attached model in it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inside = model

    def forward(self, x: Tensor) -> Any:
        return self.inside(x)


TRACERS: dict[str, tuple[Callable[[Any], object], str]] = {
    "torch.jit.trace": (traced, r"torch\.jit\.trace"),
    "torch.fx": (symbolic, r"torch\.fx"),
}


@pytest.mark.parametrize("tracer", TRACERS)
@pytest.mark.parametrize("family", ["clip_vision", "timm_vit"])
@torch.no_grad()
def test_tracers_are_refused_by_name(family: str, tracer: str) -> None:
    run, said = TRACERS[tracer]
    model = getattr(models, family)()
    with (
        tokenprune.attach(model, TOME),
        pytest.raises(UnsupportedCallError, match=rf"{said}.*strict=False"),
    ):
        run(model)
    states(model(X))
