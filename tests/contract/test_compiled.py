"""A tower with a static plan is one graph under `torch.compile`, and gives the same."""

from __future__ import annotations

import shutil
from contextvars import ContextVar
from functools import cache
from typing import Any

import pytest
import torch
from tokenprune_strategies.tome import ToMe
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import tokenprune
from tests import models, towers
from tests.contract.cases import ENCODER_STAGES, ENCODERS, attached, plan
from tests.mllm.calls import SHORT, inputs
from tokenprune.errors import NotMeasuredError
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens

SMALL = {"num_hidden_layers": 3}
TIMM = {"depth": 3}
WHOLE_TOWERS = ("clip", "siglip")
PAIRS = [(name, "clip-vision") for name in ENCODER_STAGES] + [
    ("evoprune", name) for name in ENCODERS if name != "clip-vision"
]


_PROBE: ContextVar[int] = ContextVar("probe", default=1)


@cache
def traces_context_variables() -> bool:
    """Whether this torch can; older releases break the graph at one, and plans read one."""
    try:
        torch.compile(lambda x: x + _PROBE.get(), backend="eager", fullgraph=True)(torch.ones(1))
    except torch._dynamo.exc.Unsupported:
        return False
    return True


needs_context_variables = pytest.mark.skipif(
    not traces_context_variables(), reason=f"torch {torch.__version__} traces no context variables"
)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def built(encoder: str) -> Any:
    changes = TIMM if encoder.startswith("timm") else SMALL
    return ENCODERS[encoder].build(**changes)


def called(model: Any, encoder: str) -> Any:
    return model.get_image_features if encoder in WHOLE_TOWERS else model


def tensors(output: Any) -> list[Tensor]:
    values = [output] if isinstance(output, Tensor) else output.values()
    return [value for value in values if isinstance(value, Tensor)]


def assert_same(found: Any, plain: Any) -> None:
    for one, other in zip(tensors(found), tensors(plain), strict=True):
        torch.testing.assert_close(one, other)


@needs_context_variables
@pytest.mark.parametrize(("stage", "encoder"), PAIRS)
@torch.no_grad()
def test_a_static_plan_is_one_graph_and_gives_the_same(stage: str, encoder: str) -> None:
    model, given = built(encoder), ENCODERS[encoder].inputs(2)
    counter = CompileCounterWithBackend("eager")
    with attached(model, ENCODER_STAGES[stage]):
        call = called(model, encoder)
        compiled = torch.compile(call, backend=counter, fullgraph=True)
        for seed in (0, 1):  # traced, then from the cache with other pictures
            given = {name: _other(value, seed) for name, value in given.items()}
            assert_same(compiled(**given), call(**given))
    assert counter.frame_count == 1


def _other(value: Tensor, seed: int) -> Tensor:
    return value.flip(-1) if seed and value.is_floating_point() else value


@needs_context_variables
@pytest.mark.parametrize(
    ("stage", "encoder"), [("evoprune", "clip-vision"), ("tome", "timm-average")]
)
@torch.no_grad()
def test_seven_batch_sizes_need_three_graphs(stage: str, encoder: str) -> None:
    model, counter = built(encoder), CompileCounterWithBackend("aot_eager")
    with attached(model, ENCODER_STAGES[stage]):
        compiled = torch.compile(model, backend=counter, fullgraph=True)
        for batch in (2, 4, 1, 3, 8, 2, 5):
            given = ENCODERS[encoder].inputs(batch)
            assert_same(compiled(**given), model(**given))
    assert counter.frame_count <= 3


@needs_context_variables
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@torch.no_grad()
def test_inductor_compiles_a_plan_to_one_graph() -> None:
    model, pictures = models.clip_vision(num_hidden_layers=2), models.pixels(2)
    with attached(model, {"strategy": "tome", "layer": 0}, keep=20):
        plain = model(pictures).last_hidden_state
        compiled = torch.compile(model, fullgraph=True)
        torch.testing.assert_close(compiled(pictures).last_hidden_state, plain)


@needs_context_variables
@torch.no_grad()
def test_a_compiled_call_is_not_measured_and_says_so() -> None:
    model, pictures = models.clip_vision(**SMALL), models.pixels(2)
    with attached(model, ENCODER_STAGES["tome"]) as handle:
        model(pictures)
        handle.meter.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        compiled(pictures * float("nan"))  # and values aren't checked
        report = handle.report()
        assert report.compiled
        assert report.seconds == {}
        assert report.tokens == {}
        lines = str(report).splitlines()
        assert all("not measured" in line for line in lines[1:4])
        with pytest.raises(NotMeasuredError, match="one compiled graph"):
            _ = handle.trace
        model(pictures)
        assert len(handle.trace.images) == 2
        assert "1 with 2 images, and compiled ones: not measured" in str(handle.report())
        handle.meter.reset()
        assert "not measured" not in str(handle.report())


@torch.no_grad()
def test_a_strategy_that_breaks_the_graph_runs_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reduce = ToMe.reduce

    def peeking(self: ToMe, tokens: Tokens, budget: Budget) -> Reduction:
        assert float(tokens.size.sum()) > 0  # no graph can hold this
        return reduce(self, tokens, budget)

    monkeypatch.setattr(ToMe, "reduce", peeking)
    model, pictures = models.clip_vision(**SMALL), models.pixels(2)
    with attached(model, ENCODER_STAGES["tome"]) as handle:
        plain = model(pictures).last_hidden_state
        compiled = torch.compile(model, backend="eager")
        for _ in range(2):
            torch.testing.assert_close(compiled(pictures).last_hidden_state, plain)
        assert not handle.report().compiled
        assert len(handle.trace.images) == 2


@torch.no_grad()
def test_a_compiled_tower_inside_a_multimodal_llm_keeps_to_the_llms_call() -> None:
    model, given = models.llava_clip(), inputs(SHORT)
    stages = plan(ENCODER_STAGES["tome"])["stages"]
    stages += [{"at": "pre_llm", "strategy": "fopru", "keep": 9}]
    with tokenprune.attach(model, {"schema_version": 1, "stages": stages}) as handle:
        plain, tokens = model(**given).logits, handle.report().tokens
        model.model.vision_tower.compile(backend="eager")
        model.model.vision_tower(given["pixel_values"])  # by itself one graph, where it can be
        assert handle.report().compiled == traces_context_variables()
        torch.testing.assert_close(model(**given).logits, plain)
        assert handle.report().tokens == tokens
        assert len(handle.trace.images) == 1


@needs_context_variables
@torch.no_grad()
def test_values_that_a_graph_cannot_refuse_give_nan() -> None:
    model = towers.idefics3(**SMALL)
    with attached(model, ENCODER_STAGES["tome"]):
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert compiled(**towers.idefics3_inputs())[0].isfinite().all()
        assert compiled(**towers.idefics3_inputs(hidden=1))[0].isnan().all()
