"""A tower that is compiled by itself is one graph inside of its multimodal LLM, too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from tokenprune_strategies.tome import ToMe
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

import tokenprune
from tests.contract.compiling import small_llava
from tests.contract.test_compiled_packed import recorded
from tests.families.calls import case_of, logits
from tests.families.cases import CASES
from tests.families.plans import plan
from tests.families.test_encoder import FAMILIES as NAMES
from tests.families.test_encoder import SHUFFLED
from tests.families.towers import TOWERS
from tests.mllm.calls import LONG, inputs
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens

LIKE = {"paligemma": "llava_onevision", "smolvlm": "idefics3", "qianfan_ocr": "internvl"}
"""Families whose tower has the adapter of another's, and is read at its end, too.

What breaks a graph and is the project's stands in adapters and in the engine.
"""


def of_one_tower(names: Iterable[str]) -> list[str]:
    """The first family of each class of towers and depths read of it: graphs differ by these."""
    found: dict[object, str] = {}
    for name in names:
        case = CASES[name]
        config = None if case.missing() else case.config()
        depths = str(getattr(config, "vision_feature_layer", None))
        kind = name if config is None else config.vision_config.model_type
        found.setdefault((kind, depths), name)
    return [name for name in found.values() if name not in LIKE]


# those that shuffle inside of the projector have the tower of others
FAMILIES = of_one_tower(("llava", *(name for name in NAMES if name not in SHUFFLED)))
INSIDE = {"strategy": "tome", "at": "encoder", "layer": 1, "keep": 0.7}
BEHIND = {"strategy": "fopru", "at": "pre_llm", "keep": 0.5}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def tower(model: Any) -> Any:
    """That of pictures; without the head that Ovis2 has in it, which runs on what is left."""
    found = next(getattr(model.model, name) for name in TOWERS if hasattr(model.model, name))
    return getattr(found, "transformer", found)


def plain_graphs(name: str) -> int:
    """Graphs of the tower without a plan."""
    case, graphs = case_of(name), CompileCounter()
    model = case.create()
    tower(model).compile(backend=graphs)
    logits(model, case.inputs("one"))
    found: int = graphs.frame_count
    return found


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_tower_is_one_graph_inside_a_multimodal_llm(name: str) -> None:
    """The only break stands in front of it, where the running call is looked up."""
    case = case_of(name)
    model, call = case.create(), case.inputs("one")
    graphs, before = CompileCounter(), counters["graph_break"].total()
    with tokenprune.attach(model, plan(INSIDE, BEHIND)) as handle:
        plain, told, counted = logits(model, call), recorded(handle), handle.report()
        assert {step[1].stage for step in told} == {"encoder", "pre_llm"}
        tower(model).compile(backend=graphs)
        for _ in range(2):  # traced, then from the cache
            handle.meter.reset()
            torch.testing.assert_close(logits(model, call), plain)
            assert recorded(handle) == told
            assert handle.report().tokens == counted.tokens
            assert not handle.report().compiled
    breaks = counters["graph_break"].total() - before
    if (graphs.frame_count != 1 or breaks > 1) and plain_graphs(name) != 1:
        pytest.skip("the plain tower is no single graph in this release of transformers")
    assert graphs.frame_count == 1
    assert breaks <= 1


def peeking(self: ToMe, tokens: Tokens, budget: Budget) -> Reduction:
    assert float(tokens.size.sum()) > 0  # no graph can hold this
    return _REDUCE(self, tokens, budget)


_REDUCE = ToMe.reduce


@torch.no_grad()
def test_what_no_graph_can_hold_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at values: at the prompts that say which images are frames, and by a strategy."""
    monkeypatch.setattr(ToMe, "reduce", peeking)
    model, given = small_llava(), inputs(LONG)
    stages = {**INSIDE, "layer": 0}, BEHIND
    with tokenprune.attach(model, plan(*stages, images="frames")) as handle:
        plain, told = model(**given).logits, recorded(handle)
        model.model.vision_tower.compile(backend="eager")
        for _ in range(2):
            torch.testing.assert_close(model(**given).logits, plain)
            assert recorded(handle) == told
            assert not handle.report().compiled
