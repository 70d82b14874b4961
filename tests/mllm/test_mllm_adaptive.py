"""Strategies that set their own budget: without `keep`, or with one as a ceiling."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

import tokenprune
from tests.mllm.calls import LONG, SHORT, TEXT, greedy, inputs, logits, model
from tests.mllm.plans import fastv, plan
from tests.mllm.strategies import Shy
from tests.models import PATCHES
from tests.plugin import registering
from tokenprune import Budget
from tokenprune.errors import BudgetError, PlanError, PluginError, ReductionError
from tokenprune.plugins.host import host, register_plugin

PROMPT = [1, 10, 14, *SHORT[2:]]


def shy(at: str, keep: Any = None, index: Any = (0, 4, 7), **rest: Any) -> dict[str, Any]:
    stage = {"at": at, "strategy": "t-shy", "params": {"index": list(index), "text": [0, 2]}}
    if keep is not None:
        stage["keep"] = keep
    return {**stage, **({"layer": 2} if at == "decoder" else {}), **rest}


@pytest.mark.parametrize("at", ["pre_llm", "decoder"])
def test_without_keep_the_budget_is_what_arrives(at: str) -> None:
    of = model()
    with tokenprune.attach(of, plan(shy(at))) as handle:
        greedy(of, inputs(SHORT, TEXT))
        site = "pre_llm" if at == "pre_llm" else "decoder[2]"
        assert handle.report().tokens[site] == 3
    assert Shy.given == [Budget(PATCHES, PATCHES, given=False)]


@pytest.mark.parametrize("at", ["pre_llm", "decoder"])
@pytest.mark.parametrize(
    ("keep", "ceiling"), [(3, 3), (10, 10), (100, PATCHES), (0.25, 9), ({"average": 30}, 24)]
)
def test_keep_is_a_ceiling(at: str, keep: Any, ceiling: int) -> None:
    of = model()
    if at == "pre_llm" and isinstance(keep, dict):
        ceiling = 30
    with tokenprune.attach(of, plan(shy(at, keep))):
        logits(of, inputs(SHORT))
    assert Shy.given == [Budget(PATCHES, ceiling)]


@pytest.mark.parametrize("at", ["pre_llm", "decoder"])
@pytest.mark.parametrize("keep", [2, 0.06])
def test_an_answer_above_the_ceiling_is_an_error(at: str, keep: Any) -> None:
    of, call = model(), inputs(SHORT)
    want = logits(of, call)
    with (
        tokenprune.attach(of, plan(shy(at, keep))),
        pytest.raises(ReductionError, match="left 3 tokens where the plan allows 2 at most"),
    ):
        logits(of, call)
    assert (logits(of, call) == want).all()


def test_a_ceiling_counts_per_image() -> None:
    of = model()
    with tokenprune.attach(of, plan(shy("decoder", 2, (0, 4, 7, 40)))):
        logits(of, inputs(LONG))
    with (
        tokenprune.attach(of, plan(shy("decoder", 2, (0, 4, 7, 35)))),
        pytest.raises(ReductionError, match="allows 2 at most"),
    ):
        logits(of, inputs(SHORT))


@pytest.mark.parametrize(("keep_text", "fits"), [(2, True), (1, False), (0.7, True), (0.4, False)])
def test_keep_text_is_a_ceiling(keep_text: Any, fits: bool) -> None:
    of, call = model(), inputs(PROMPT)
    with tokenprune.attach(of, plan(shy("decoder", keep_text=keep_text))) as handle:
        if fits:
            logits(of, call)
            assert handle.report().tokens["text[2]"] == 2
            return
        with pytest.raises(ReductionError, match="at most"):
            logits(of, call)


def test_stages_behind_it_take_what_is_left() -> None:
    of = model()
    stages = [shy("pre_llm", 6), shy("decoder", 2, (0, 1), layer=1), fastv(3, 9)]
    with tokenprune.attach(of, plan(*stages)) as handle:
        greedy(of, inputs(SHORT, LONG))
        assert handle.report().tokens["decoder[3]"] == 1.0 * (2 + 2) / 3
    assert Budget(3, 2) in Shy.given


@pytest.mark.parametrize("index", [(0, 4, 7), tuple(range(12))])
def test_tokens_behind_it_at_the_same_place_are_a_ceiling(index: tuple[int, ...]) -> None:
    of = model()
    stages = [shy("pre_llm", index=index), {"at": "pre_llm", "strategy": "fopru", "keep": 9}]
    with tokenprune.attach(of, plan(*stages)) as handle:
        greedy(of, inputs(SHORT, TEXT, LONG))
        assert handle.report().tokens["pre_llm"] == min(9, len(index))


def test_an_average_behind_it_is_refused() -> None:
    with pytest.raises(PlanError, match="depends on the data"):
        tokenprune.attach(model(), plan(shy("pre_llm"), fastv(2, {"average": 3})))


def test_others_need_a_budget_and_keep_to_it() -> None:
    stage = fastv(2)
    del stage["keep"]
    with pytest.raises(PlanError, match="needs a budget"):
        tokenprune.load_plan(plan(stage))
    with pytest.raises(BudgetError, match="100"):
        tokenprune.attach(model(), plan(fastv(2, 100)))


def test_a_length_that_is_not_known_is_refused() -> None:
    class Torn(Shy):
        name = "t-torn"
        length: ClassVar[Any] = "adaptive"

    with pytest.raises(PluginError, match="'adaptive', known are planned, data, own"):
        register_plugin(registering(Torn), "torn")
    assert "t-torn" not in host().strategies
