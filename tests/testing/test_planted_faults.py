"""The kit finds every planted fault and names it; right strategies pass."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.wrong_strategies import (
    RAISED,
    WRONG,
    WRONG_LENGTH,
    WRONG_SCORES,
    Fault,
    NanScores,
    Turning,
    Wrong,
    WrongLength,
    WrongScores,
)
from tokenprune import (
    Budget,
    PruningStrategy,
    Reduction,
    ScoreStrategy,
    Signal,
    Site,
    StrategyParams,
    Tokens,
)
from tokenprune.errors import PluginError, SignalError
from tokenprune.interface.placement import Decoder, Encoder, PreLlm
from tokenprune.interface.strategy import asked
from tokenprune.testing import Report
from tokenprune.testing import check_strategy as check
from tokenprune.testing.pytest_plugin import strategy_contract

EVERYWHERE = (Encoder(), PreLlm(), Decoder())
OTHER_WORDS = {
    "wrong count": "left",
    "mask beyond the budget": "at most",
    "none beyond the budget": "at most",
    "too few samples": "samples",
    "int32 anchors": "anchors of shape",
}
"""Words of messages that depend on the batch and the budget, which aren't those of one model."""


def check_strategy(kind: type[PruningStrategy[Any]], params: Any = None) -> Report:
    return check(kind, params, inside=False)


def said(report: Report, key: str) -> Iterator[str]:
    """What the rows of a key say, each of which has to fail."""
    rows = [row for row in report.rows if row.key == key]
    assert rows
    for row in rows:
        assert row.status == "fail", row
        yield row.note


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_answers(fault: str) -> None:
    word = OTHER_WORDS.get(fault, WRONG[fault][1])
    key = "in place" if fault == "changed in place" else "answers"
    for note in said(check_strategy(Wrong, {"fault": fault}), key):
        assert re.search(word, note), note


@pytest.mark.parametrize("fault", WRONG_LENGTH)
def test_wrong_lengths(fault: str) -> None:
    word = OTHER_WORDS.get(fault, WRONG_LENGTH[fault][1])
    for note in said(check_strategy(WrongLength, {"fault": fault}), "answers"):
        assert word in note, note


@pytest.mark.parametrize("fault", [*RAISED, "unasked signal"])
def test_what_raises(fault: str) -> None:
    for note in said(check_strategy(Wrong, {"fault": fault}), "answers"):
        assert "raised" in note or "not asked for" in note
        line = r"raised \w+ \(tests/contract/wrong_strategies\.py:\d+, in <lambda>\): "
        assert fault == "unasked signal" or re.search(line, note), note


@pytest.mark.parametrize("fault", WRONG_SCORES)
def test_scores_of_a_wrong_form(fault: str) -> None:
    for note in said(check_strategy(WrongScores, {"fault": fault}), "answers"):
        assert re.search(rf"answered with scores {WRONG_SCORES[fault][1]} is right", note), note


@pytest.mark.parametrize("fault", RAISED)
def test_what_raises_changes_nothing(fault: str) -> None:
    report = check_strategy(Wrong, {"fault": fault})
    assert {row.key for row in report.failed} == {"answers"}
    assert report.row("in place", "encoder").note == "it raises, see 'answers'"


@pytest.mark.parametrize("fault", ["all", "half"])
def test_scores_that_are_nan(fault: str) -> None:
    for note in said(check_strategy(NanScores, {"fault": fault}), "answers"):
        assert "NaN" in note


def test_a_wrong_answer_is_told_once() -> None:
    report = check_strategy(Wrong, {"fault": "one token"})
    assert {row.key for row in report.failed} == {"answers"}
    assert report.row("batch", "encoder").status == "does not apply"
    with pytest.raises(AssertionError, match=r"encoder, answers: .*ascending"):
        report.require()


def test_what_turns_wrong_later() -> None:
    assert check_strategy(Turning).failed


class Scored(ScoreStrategy[StrategyParams]):
    """The right one, from which the others differ."""

    name = "t-scored"
    stages = EVERYWHERE

    def score(self, tokens: Tokens) -> Tensor:
        return tokens.hidden.float().norm(dim=-1)


class Rewriting(Scored):
    """Writes into what it reads, and raises behind it or not; torch counts one, bytes the other."""

    Params = Fault

    def score(self, tokens: Tokens) -> Tensor:
        fault = getattr(self.params, "fault", "")
        (tokens.hidden.data if "uncounted" in fault else tokens.hidden).mul_(
            1 if "the same" in fault else 2
        )
        if "raises" in fault:
            raise ValueError("behind it")
        return super().score(tokens)


@pytest.mark.parametrize(
    "fault", ["counted", "the same", "uncounted", "raises", "uncounted raises"]
)
def test_changes_in_place_fail_their_row_alone(fault: str) -> None:
    report = check_strategy(Rewriting, {"fault": fault})
    assert {row.key for row in report.failed} == {"in place"}
    assert "changed the hidden states that it got" in report.row("in place", "encoder").note
    assert report.row("answers", "encoder").note == "not tried, since 'in place' fails"


class OfTheBatch(Scored):
    def score(self, tokens: Tokens) -> Tensor:
        return (tokens.hidden - tokens.hidden.mean(dim=(0, 1))).norm(dim=-1)


class OfTheRow(Scored):
    def score(self, tokens: Tokens) -> Tensor:
        rows = torch.arange(tokens.hidden.shape[0])[:, None]
        return super().score(tokens) * (1 - 2 * (rows % 2))


class GlobalRandom(Scored):
    def score(self, tokens: Tokens) -> Tensor:
        return torch.rand(tokens.size.shape)


class Counting(Scored):
    calls = 0

    def score(self, tokens: Tokens) -> Tensor:
        type(self).calls += 1
        return super().score(tokens) * (-1) ** self.calls


class Reading(Scored):
    def score(self, tokens: Tokens) -> Tensor:
        return super().score(tokens) * (1 if tokens.hidden.max().item() > 0 else -1)


class LastTie(Scored):
    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        score = self.score(tokens)
        best = score.flip(1).sort(dim=1, descending=True, stable=True).indices[:, : budget.keep]
        kept = (tokens.count - 1 - best).sort(dim=1).values
        return Reduction.keep(kept, tokens.count, score=score)


class FloatOnly(Scored):
    def score(self, tokens: Tokens) -> Tensor:
        return tokens.hidden @ torch.ones(tokens.hidden.shape[2])


class TwoAtLeast(Scored):
    def score(self, tokens: Tokens) -> Tensor:
        if tokens.count < 2:
            raise ValueError("nothing to compare")
        return super().score(tokens)


class EvenOnly(Scored):
    def score(self, tokens: Tokens) -> Tensor:
        halves = tokens.hidden.float().view(tokens.hidden.shape[0], 2, tokens.count // 2, -1)
        return halves.norm(dim=-1).flatten(1)


class WholeGrid(Scored):
    def score(self, tokens: Tokens) -> Tensor:
        _, height, width = tokens.grid
        spread = tokens.hidden.float().unflatten(1, (-1, height, width))
        return spread.norm(dim=-1).flatten(1)


class Spread(Scored):
    """Divides by the spread of the scores, which is 0 where all tokens are equal."""

    def score(self, tokens: Tokens) -> Tensor:
        score = super().score(tokens)
        centred = score - score.mean(dim=1, keepdim=True)
        return centred / (score.amax(dim=1) - score.amin(dim=1))[:, None]


class Fewer(PruningStrategy[StrategyParams]):
    """Removes a token even where all are to be kept."""

    name = "t-fewer"
    stages = (PreLlm(), Decoder())
    length = "data"

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        places = torch.arange(tokens.count).expand_as(tokens.index)
        return Reduction.keep_mask(places < max(1, budget.keep - 1))


class FromNothing(PruningStrategy[StrategyParams]):
    """Makes new tokens and doesn't say of what."""

    name = "t-nothing"
    stages = EVERYWHERE

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        made = tokens.hidden[:, : budget.keep] * 2
        index = torch.arange(budget.keep).expand(made.shape[0], -1)
        slot = torch.full_like(tokens.index, -1)
        return replace(Reduction.replace(made, slot), anchor=index)


class Order(StrategyParams):
    low: float = 0.0


class Forgetful(Scored):
    """Answers by something that its parameters don't hold."""

    Params = Order

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.sign = 1 if params.low else -1
        object.__setattr__(params, "low", 0.0)

    def score(self, tokens: Tokens) -> Tensor:
        return super().score(tokens) * self.sign


FAULTS: dict[str, tuple[type[PruningStrategy[Any]], dict[str, Any], str]] = {
    "batch": (OfTheBatch, {}, "sample . is alone"),
    "order": (OfTheRow, {}, "another order"),
    "seeds": (GlobalRandom, {}, "global generator"),
    "repeats": (Counting, {}, "asked again"),
    "no wait": (
        Reading,
        {},
        r"faults\.py:\d+, in score\), .* GPU has to be waited for",
    ),
    "ties": (LastTie, {}, "lower index"),
    "half precision": (FloatOnly, {}, "in bfloat16: .*raised RuntimeError"),
    "one token": (TwoAtLeast, {}, "nothing to compare"),
    "odd sizes": (EvenOnly, {}, "raised RuntimeError"),
    "later": (WholeGrid, {}, "raised"),
    "all equal": (Spread, {}, "scores that are NaN"),
    "keep all": (Fewer, {}, "leaves 15 of 16 tokens that are all to be kept"),
    "trace": (FromNothing, {}, "stand for no patch"),
    "saved": (Forgetful, {"low": 1.0}, "what was saved"),
}


@pytest.mark.parametrize("key", FAULTS)
def test_a_fault_is_named(key: str) -> None:
    kind, params, words = FAULTS[key]
    for note in said(check_strategy(kind, params), key):
        assert re.search(words, note), note


class TwoAtMost(Scored):
    """Can't take the larger batch that beams make of two prompts."""

    def score(self, tokens: Tokens) -> Tensor:
        assert tokens.hidden.shape[0] <= 2
        return super().score(tokens)


@pytest.mark.parametrize(("kind", "key"), [(OfTheBatch, "padding"), (TwoAtMost, "beams")])
def test_a_fault_inside_a_model_is_named(kind: type[Scored], key: str) -> None:
    stages = ["encoder", "pre_llm", "decoder"] if key == "padding" else ["decoder"]
    for note in said(check(kind, stages=stages), key):
        assert re.search(r"prompt \d differ|raised AssertionError", note), note


def test_a_right_strategy_passes() -> None:
    report = check(Scored)
    report.require()
    others = {(row.key, row.at) for row in report.rows if row.status != "pass"}
    assert others == {("video", "encoder")}
    assert str(report) == f"t-scored: {len(report.rows) - 1} rows hold, 0 fail"


def test_without_models_the_rows_inside_them_say_so() -> None:
    assert check_strategy(Scored).row("beams", "decoder").note == "not tried without models"


def test_a_refusal_by_the_model_is_told() -> None:
    class Foreign(Scored):
        def signals(self, site: Site) -> tuple[Signal, ...]:
            return (Signal("mood", "[B, N] how a token feels"),)

    report = check(Foreign, stages=["decoder"])
    row = report.row("padding", "decoder")
    assert row.status == "does not apply"
    assert "mood" in row.note
    assert "nothing says how to compute it" in report.row("signals", "decoder").note


def test_a_signal_of_another_stage_is_a_fault() -> None:
    class Elsewhere(Scored):
        def signals(self, site: Site) -> tuple[Signal, ...]:
            return (Signal.LAST_QUERY_ATTENTION,)

    report = check_strategy(Elsewhere)
    failed = report.failed
    assert [(row.key, row.at) for row in failed] == [("signals", "encoder"), ("signals", "pre_llm")]
    assert all("exists at decoder only" in row.note for row in failed)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"stages": ()}, "write placements"),
        ({"stages": PreLlm()}, "write placements"),
        ({"stages": (Encoder,)}, "write placements"),
        ({"name": "MyMethod"}, "lower-case letters"),
    ],
)
def test_what_no_plugin_could_register_is_refused(wrong: dict[str, Any], said: str) -> None:
    kind = type("Unregistered", (WrongScores,), wrong)
    with pytest.raises(PluginError, match=f"Unregistered can't be registered: .*{said}"):
        check(kind)
    with pytest.raises(PluginError, match=said):
        strategy_contract(kind)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (("keys",), r"\('keys',\)"),
        ("keys", "'keys'"),
        (Signal.KEYS, "the signal 'keys' alone"),
        (None, "None"),
    ],
)
def test_signals_that_are_no_tuple_of_signals_are_named(answer: Any, said: str) -> None:
    kind = type("Asking", (WrongScores,), {"signals": lambda self, site: answer})
    failed = check(kind, inside=False).failed
    assert failed
    for row in failed:
        assert re.search(f"answered {said}, where a tuple of signals is right", row.note)
    with pytest.raises(SignalError, match=rf"{said}.*\(Signal\.KEYS,\)"):
        asked(kind.from_params(), Site("pre_llm", 2, 2))
