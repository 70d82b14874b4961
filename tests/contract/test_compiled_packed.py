"""Towers for pictures of any size are one graph for each list of their grids."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import pytest
import torch
import transformers
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

import tokenprune
from tests import packed
from tests.adapters import any_size
from tests.contract.compiling import assert_one, assert_same, one_graph
from tests.families.cases import CASES
from tests.families.models.common import built
from tests.packed import plan

MERGING_AND_DROPPING = plan(
    {"strategy": "tome", "layer": 0, "keep": 0.7}, {"strategy": "fopru", "layer": 1, "keep": 0.5}
)
BARE = {"strategy": "tome", "params": {"proportional_attention": False}}
AMONG_WINDOWS: dict[str, list[dict[str, Any]]] = {
    "evoprune": [{"strategy": "evoprune", "layers": [0, 2], "keep": 0.4}],
    "fopru, tome-bare, random, uniform": [
        {"strategy": "fopru", "layer": 0, "keep": 0.8},
        {**BARE, "layer": 1, "keep": 0.7},
        {"strategy": "random", "layer": 2, "keep": 0.8},
        {"strategy": "uniform", "layer": 3, "keep": 0.8},
    ],
    "ipcv": [{"strategy": "ipcv", "layer": 2, "params": {"stabilise": 1}, "keep": 0.4}],
}
"""Stages; blocks 0 and 2 attend within windows."""
GRIDS = ((1, 4, 8), (2, 8, 10))
"""A picture, and a clip whose windows of 2 x 2 units are of different sizes."""
PICTURE = GRIDS[:1]
"""What a family's own code is traced with; several grids are the engine's."""


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def tower(family: str, blocks: int = 2) -> Any:
    """A tower of a few blocks."""
    alone = family in any_size.TOWERS
    model = copy.deepcopy(any_size.tower(family) if alone else packed.tower(family))
    inner = getattr(model, "transformer", getattr(model, "encoder", model))
    name = "layers" if alone else "blocks"
    setattr(inner, name, getattr(inner, name)[:blocks])
    return model


@pytest.mark.parametrize("family", ["qwen3_vl", "glm4v", "glm_ocr", *any_size.TOWERS])
@torch.no_grad()
def test_every_tower_that_merges_and_drops_is_one_graph(family: str) -> None:
    model = tower(family)
    alone = family in any_size.TOWERS
    given = any_size.call(family, scene="one") if alone else packed.call(PICTURE)
    with tokenprune.attach(model, MERGING_AND_DROPPING) as handle:
        plain = model(**given)
        assert len(handle.trace.image(0).steps) == 2
        compiled, counter = one_graph(model)
        assert_same(compiled(**given), plain)
    assert_one(counter)


@pytest.mark.parametrize("stages", AMONG_WINDOWS.values(), ids=AMONG_WINDOWS)
@torch.no_grad()
def test_every_static_strategy_is_one_graph_among_windows(stages: list[dict[str, Any]]) -> None:
    last = max(stage.get("layer", 2) for stage in stages)
    model, given = tower("qwen2_5_vl", 1 + last), packed.call(GRIDS)
    with tokenprune.attach(model, plan(*stages)):
        compiled, counter = one_graph(model)
        for rows in (given["hidden_states"], given["hidden_states"].flip(-1)):
            values = {**given, "hidden_states": rows}  # traced, then from the cache
            assert_same(compiled(**values), model(**values))
    assert_one(counter)


@torch.no_grad()
def test_a_graph_is_of_one_list_of_grids() -> None:
    """Also of grids that were never seen, of as many rows, and of a tower compiled in place."""
    model = tower("qwen2_vl", 1)
    with tokenprune.attach(model, plan({"strategy": "tome", "layer": 0, "keep": 0.7})) as handle:
        calls = [packed.call((grid,)) for grid in ((1, 4, 12), (1, 6, 8), (1, 4, 12))]
        _, counter = one_graph(model)
        model.compile(backend=counter, fullgraph=True)
        found = [model(**given) for given in calls]
        assert handle.report().compiled
        with torch.compiler.set_stance("force_eager"):
            assert_same(found, [model(**given) for given in calls])
    assert counter.frame_count == 2


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@torch.no_grad()
def test_inductor_compiles_a_plan_to_one_graph() -> None:
    model, given = tower("qwen2_5_vl", 1), packed.call(((1, 4, 4),))
    with tokenprune.attach(model, plan({"strategy": "fopru", "layer": 0, "keep": 0.5})):
        plain = model(**given)
        assert_same(torch.compile(model, fullgraph=True)(**given), plain)


def mllm(family: str, blocks: int) -> tuple[Any, dict[str, Any]]:
    """A multimodal LLM of few blocks and one layer, and a call of it."""
    case = CASES[family]
    config = case.config()
    config.vision_config.depth, config.text_config.num_hidden_layers = blocks, 1
    kind = getattr(transformers, case.model_class)
    return built(kind, config, torch.float32, "sdpa"), case.inputs("one", "none")


def recorded(handle: Any) -> list[Any]:
    """What the latest call says of its pictures, without the rounding of scores."""
    return [
        (one.grid, step.site, step.assignment.tolist(), step.anchor.tolist())
        for one in handle.trace.images
        for step in one.steps
    ]


@torch.no_grad()
def test_a_tower_is_one_graph_inside_a_multimodal_llm() -> None:
    """The plain one breaks its graph, since it reads its grids of a tensor."""
    model, given = mllm("qwen2_5_vl", 2)
    graphs, before = CompileCounter(), counters["graph_break"].total()
    with tokenprune.attach(model, MERGING_AND_DROPPING) as handle:
        plain = model(**given).logits
        told, counted = recorded(handle), handle.report()
        assert len(told) == 2
        model.model.visual.compile(backend=graphs)
        for _ in range(2):  # traced, then from the cache
            handle.meter.reset()
            torch.testing.assert_close(model(**given).logits, plain)
            assert recorded(handle) == told
            assert handle.report().tokens == counted.tokens
            assert not handle.report().compiled
        assert "'encode'" in str(handle.report())
    assert graphs.frame_count == 1
    assert counters["graph_break"].total() == before


def plain_graphs(model: Any, given: dict[str, Any]) -> int:
    """Graphs of a multimodal LLM without a plan."""
    plain = CompileCounter()
    torch._dynamo.reset()
    torch.compile(model.forward, backend=plain)(**given)
    return int(plain.frame_count)


FEW = 21
"""Graphs of the model below in torch 2.14; where there are more, those of the plain one count."""


@torch.no_grad()
def test_a_compiled_multimodal_llm_is_no_more_graphs_than_the_plain_one() -> None:
    model, given = mllm("qwen2_vl", 1)
    pruned = CompileCounter()
    with tokenprune.attach(model, plan({"strategy": "uniform", "layer": 0, "keep": 0.5})) as handle:
        logits, told = model(**given).logits, recorded(handle)
        model.compile(backend=pruned)
        torch.testing.assert_close(model(**given).logits, logits)
        assert recorded(handle) == told
    assert pruned.frame_count <= FEW or pruned.frame_count <= plain_graphs(model, given)
