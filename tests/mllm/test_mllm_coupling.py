"""An average at pre_llm, solved with the decoder stages behind it, as measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import tokenprune
from tests.mllm.calls import LONG, SHORT, greedy, inputs, logits, model
from tests.mllm.plans import drawn, fastv, plan, tome
from tests.mllm.strategies import Exit
from tests.plugin import registering
from tokenprune.errors import BudgetError, PlanError
from tokenprune.plugins.host import register_plugin


class Leaver(Exit):
    """An exit that sets its own budget."""

    name = "t-leaver"
    length = "own"


@pytest.fixture(autouse=True)
def _plugin() -> Iterator[None]:
    with register_plugin(registering(Leaver), "coupling-tests"):
        yield


def coupled(average: float, **rest: Any) -> dict[str, Any]:
    return {"at": "pre_llm", "strategy": "random", "keep": {"average": average}, **rest}


def measured(*stages: dict[str, Any], prompts: tuple[list[int], ...] = (SHORT, LONG)) -> Any:
    of = model()
    with tokenprune.attach(of, plan(*stages)) as handle:
        logits(of, inputs(*prompts))
        return handle.meter.tokens


@pytest.mark.parametrize("average", [4, 9, 10.5, 11.25])
@pytest.mark.parametrize("later", [(2, 0.5), (1, 3), (3, 4)])
def test_the_measured_mean_is_the_largest_below_the_budget(
    average: float, later: tuple[int, Any]
) -> None:
    layer, keep = later
    found = measured(coupled(average), fastv(layer, keep), prompts=(SHORT, SHORT))
    first, second = found["llm"], found[f"decoder[{layer}]"]
    assert found["llm_average"] == pytest.approx((layer * first + (4 - layer) * second) / 4)
    assert found["llm_average"] <= average
    more = first + 1
    left = keep if isinstance(keep, int) else max(1, int(more * keep))
    assert more > 36 or (layer * more + (4 - layer) * left) / 4 > average


def test_it_reckons_with_what_arrives() -> None:
    assert measured(tome(18), coupled(10), fastv(2, 0.5))["llm"] == 13
    assert measured(drawn(20), coupled(10), fastv(2, 0.5))["llm"] == 13
    with pytest.raises(BudgetError) as caught:
        measured(tome(18), coupled(15), fastv(2, 0.5))
    assert caught.value.nearest == 13.5
    assert "stages.1" in caught.value.where


def test_several_images_keep_what_one_keeps() -> None:
    assert measured(coupled(10), fastv(2, 5), prompts=(LONG,))["llm"] == 15
    assert measured(coupled(10), fastv(2, 5), prompts=(LONG,))["llm_average"] == 10


def test_the_average_counts_per_frame() -> None:
    of, call = model(), inputs([1, 5, 5, 5, 9], LONG)
    film = plan(coupled(10), fastv(2, 5), images="frames")
    with tokenprune.attach(of, film) as handle:
        logits(of, call)
        assert handle.meter.tokens["llm"] == 15
        assert handle.meter.tokens["decoder[2]"] == 5
        assert handle.meter.tokens["llm_average"] == 10


def test_an_exit_only_lowers_the_mean() -> None:
    out = {"at": "decoder", "strategy": "t-leaver", "layer": 3}
    found = measured(coupled(10), fastv(2, 0.5), out)
    assert found["llm"] == 13
    assert found["llm_average"] < 10


def test_generation_goes_on() -> None:
    of, call = model(), inputs(SHORT, LONG)
    with tokenprune.attach(of, plan(coupled(10), fastv(2, 0.5))):
        one = greedy(of, call)
    with tokenprune.attach(of, plan(drawn(13), fastv(2, 0.5))):
        assert torch.equal(greedy(of, call), one)


@pytest.mark.parametrize(
    "stages",
    [
        ({"at": "pre_llm", "strategy": "t-ragged", "keep": 0.5}, coupled(5)),
        ({**coupled(5), "strategy": "t-ragged"},),
        (coupled(5), {"at": "decoder", "strategy": "t-exit", "keep": 0.5, "layer": 2}),
    ],
)
def test_lengths_that_depend_on_the_data_are_refused(stages: tuple[dict[str, Any], ...]) -> None:
    with pytest.raises(PlanError, match="depends on the data"):
        tokenprune.attach(model(), plan(*stages))
    tokenprune.attach(model(), plan()).detach()


def test_a_decoder_stage_that_keeps_too_much_is_refused_itself() -> None:
    with pytest.raises(BudgetError, match="40") as caught:
        tokenprune.attach(model(), plan(coupled(5), fastv(2, 40)))
    assert "stages.1" in caught.value.where
