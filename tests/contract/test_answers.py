"""Wrong answers of strategies are refused by name, at every stage, and cost nothing to find."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

import tokenprune
from tests import models
from tests.contract.wrong_strategies import (
    RAISED,
    WRONG,
    WRONG_LENGTH,
    WRONG_SCORES,
    NanScores,
    Turning,
    Wrong,
    WrongLength,
    WrongScores,
    replaced,
)
from tests.mllm.calls import SHORT, inputs, model
from tests.plugin import registering
from tokenprune import Budget, Reduction, Tokens
from tokenprune.engine import answers, conditions
from tokenprune.errors import PlanError, ReductionError, SignalError, StrategyFailedError
from tokenprune.interface.placement import Encoder
from tokenprune.plugins.host import register_plugin

SITES = {"encoder": r"encoder\[1\]", "pre_llm": "pre_llm", "decoder": r"decoder\[1\]"}


@pytest.fixture(autouse=True)
def strategies() -> Iterator[None]:
    with register_plugin(
        registering(Wrong, WrongLength, WrongScores, NanScores, Turning), "wrong-answers"
    ):
        yield


def plan(at: str, fault: str, strategy: str = "t-wrong") -> dict[str, Any]:
    stage: dict[str, Any] = {"at": at, "strategy": strategy, "keep": 4, "params": {"fault": fault}}
    if at != "pre_llm":
        stage["layer"] = 1
    return {"schema_version": 1, "stages": [stage]}


def runner(at: str) -> tuple[Any, Callable[[], torch.Tensor]]:
    """A model of the stage, and a call of it."""
    if at == "encoder":
        vision, pictures = models.clip_vision(), models.pixels(1)
        return vision, lambda: vision(pixel_values=pictures).last_hidden_state
    of, call = model(), inputs(SHORT)
    return of, lambda: of(**call).logits


def refused(at: str, fault: str, error: type[Exception], *, strategy: str = "t-wrong") -> str:
    of, call = runner(at)
    with torch.no_grad(), tokenprune.attach(of, plan(at, fault, strategy)):
        with pytest.raises(error) as caught:
            call()
        with pytest.raises(error):  # the first call wasn't counted as a right one
            call()
    return str(caught.value)


@pytest.mark.parametrize("at", SITES)
@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_answer_is_refused_by_name(at: str, fault: str) -> None:
    said = refused(at, fault, ReductionError)
    assert "'t-wrong'" in said
    assert re.match(rf"stages\.0 \(t-wrong at {at}\), {SITES[at]}: ", said)
    assert re.search(WRONG[fault][1], said)


@pytest.mark.parametrize("at", ["pre_llm", "decoder"])
@pytest.mark.parametrize("fault", WRONG_LENGTH)
def test_a_wrong_length_is_refused_by_name(at: str, fault: str) -> None:
    said = refused(at, fault, ReductionError, strategy="t-wrong-length")
    assert "'t-wrong-length'" in said
    assert f"stages.0 (t-wrong-length at {at}), {at}" in said
    assert WRONG_LENGTH[fault][1] in said


@pytest.mark.parametrize("fault", WRONG_LENGTH)
def test_inside_an_encoder_they_are_refused_when_attached(fault: str) -> None:
    class Inside(WrongLength):
        name = "t-inside"
        stages = (Encoder(),)

    with (
        register_plugin(registering(Inside), "inside"),
        pytest.raises(PlanError, match="t-inside"),
    ):
        tokenprune.attach(models.clip_vision(), plan("encoder", fault, "t-inside"))


@pytest.mark.parametrize("at", SITES)
@pytest.mark.parametrize("fault", ["all", "half"])
def test_scores_that_are_nan_are_refused(at: str, fault: str) -> None:
    said = refused(at, fault, ReductionError, strategy="t-nan")
    assert "'t-nan'" in said
    assert "scores that are NaN" in said


@pytest.mark.parametrize("at", SITES)
@pytest.mark.parametrize("fault", WRONG_SCORES)
def test_scores_of_a_wrong_form_are_refused(at: str, fault: str) -> None:
    said = refused(at, fault, ReductionError, strategy="t-wrong-scores")
    assert re.search(rf"stages\.0.*{SITES[at]}: the strategy 't-wrong-scores' answered", said)
    assert re.search(rf"with scores {WRONG_SCORES[fault][1]} is right\. It got \d+", said), said


@pytest.mark.parametrize("at", SITES)
@pytest.mark.parametrize("fault", RAISED)
def test_what_raises_in_a_strategy_names_it(at: str, fault: str) -> None:
    said = refused(at, fault, StrategyFailedError)
    assert "'t-wrong' raised" in said
    assert re.search(r"\(tests/contract/wrong_strategies\.py:\d+, in <lambda>\): ", said), said


@pytest.mark.parametrize("at", SITES)
def test_a_signal_that_was_not_asked_for(at: str) -> None:
    assert "keys" in refused(at, "unasked signal", SignalError)


@pytest.mark.parametrize("at", SITES)
def test_a_change_in_place_is_found_where_torch_counts_none(at: str) -> None:
    of, call = runner(at)
    handle = tokenprune.attach(of, plan(at, "changed in place"))
    with handle, torch.inference_mode(), pytest.raises(ReductionError, match=r"hidden states.*in"):
        call()


@pytest.mark.parametrize("at", SITES)
def test_a_change_in_place_is_told_of_the_tensor_that_was_changed(at: str) -> None:
    """Hidden states and prefix tokens of an encoder share memory, so torch counts for both."""
    assert "changed the hidden states that" in refused(at, "changed in place", ReductionError)


@pytest.mark.parametrize("at", SITES)
def test_a_right_answer_passes(at: str) -> None:
    of, call = runner(at)
    for checks in ("first", "always"):
        with torch.no_grad(), tokenprune.attach(of, plan(at, ""), checks=checks):
            assert call().isfinite().all()


@pytest.mark.parametrize("at", SITES)
def test_always_finds_what_turns_wrong_later(at: str) -> None:
    of, call = runner(at)
    with torch.no_grad(), tokenprune.attach(of, plan(at, "", "t-turning")):
        call()
        call()  # the values of a known site and shape aren't read again
    with torch.no_grad(), tokenprune.attach(of, plan(at, "", "t-turning"), checks="always"):
        call()
        with pytest.raises(ReductionError, match="ascending"):
            call()


def test_what_was_right_is_not_read_again_by_a_handle_that_is_told_so() -> None:
    of, call = runner("pre_llm")
    with torch.no_grad(), tokenprune.attach(of, plan("pre_llm", "")) as handle:
        call()
    with torch.no_grad():
        with tokenprune.attach(of, plan("pre_llm", "not ascending"), checks=handle.checks):
            call()
        with (
            tokenprune.attach(of, plan("pre_llm", "not ascending")),
            pytest.raises(ReductionError, match="ascending"),
        ):
            call()


def test_checks_are_first_or_always() -> None:
    of = models.clip_vision()
    with pytest.raises(PlanError, match="sometimes"):
        tokenprune.attach(of, plan("encoder", ""), checks="sometimes")  # type: ignore[arg-type]
    tokenprune.attach(of, plan("encoder", "")).detach()


@pytest.mark.parametrize("at", SITES)
@pytest.mark.parametrize(
    "fault",
    [name for name in WRONG if name not in ("one source", "index on another device")],
)
def test_where_reading_waits_faults_come_at_the_end(
    at: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "at_once", lambda value: False)
    monkeypatch.setattr(answers, "at_once", lambda value: False)
    of, call = runner(at)
    handle = tokenprune.attach(of, plan(at, fault))
    with torch.no_grad(), handle, pytest.raises(ReductionError, match=WRONG[fault][1]):
        call()


@pytest.mark.parametrize("made", [torch.float32, torch.bfloat16])
def test_new_tokens_may_be_float32_or_what_autocast_makes(made: torch.dtype) -> None:
    class Made(Wrong):
        name = "t-made"

        def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
            answer = replaced(tokens, budget)
            assert answer.created is not None
            return replace(answer, created=answer.created.to(made))

    vision = models.clip_vision()
    pictures = models.pixels(1)
    with register_plugin(registering(Made), "made"), torch.no_grad():
        whole = plan("encoder", "", "t-made")
        if made == torch.bfloat16:
            with tokenprune.attach(vision, whole), pytest.raises(ReductionError, match="bfloat16"):
                vision(pixel_values=pictures)
        with tokenprune.attach(vision, whole), torch.autocast("cpu", dtype=torch.bfloat16):
            assert vision(pixel_values=pictures).last_hidden_state.isfinite().all()
        small = models.clip_vision().bfloat16()
        with tokenprune.attach(small, whole):
            output = small(pixel_values=pictures.bfloat16()).last_hidden_state
            assert output.dtype == torch.bfloat16
