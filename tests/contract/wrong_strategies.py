"""Strategies that answer wrongly, each in one way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tokenprune import Budget, PruningStrategy, Reduction, ScoreStrategy, StrategyParams, Tokens
from tokenprune.interface.placement import Decoder, Encoder, PreLlm
from tokenprune.interface.signals import Signal

EVERYWHERE = (Encoder(), PreLlm(), Decoder())
Answer = Callable[[Tokens, Budget], Any]


class Fault(StrategyParams):
    fault: str = ""


def first(tokens: Tokens, count: int) -> Tensor:
    return torch.arange(count).expand(tokens.hidden.shape[0], -1)


def good(tokens: Tokens, budget: Budget) -> Reduction:
    return Reduction.keep(first(tokens, budget.keep), tokens.count)


def one_token(tokens: Tokens, budget: Budget) -> Reduction:
    return Reduction.keep(first(tokens, budget.keep) * 0, tokens.count)


def descending(tokens: Tokens, budget: Budget) -> Reduction:
    return Reduction.keep(first(tokens, budget.keep).flip(1), tokens.count)


def replaced(tokens: Tokens, budget: Budget, **changes: Any) -> Reduction:
    """New tokens, every slot's group being those that leave the same rest."""
    batch, width = tokens.hidden.shape[0], tokens.hidden.shape[2]
    slot = first(tokens, tokens.count) % budget.keep
    made = Reduction.replace(torch.ones(batch, budget.keep, width), slot)
    return replace(made, **{name: change(getattr(made, name)) for name, change in changes.items()})


def merged(tokens: Tokens, source: Tensor, target: Tensor) -> Reduction:
    return Reduction.merge(source, target, tokens.size)


def own_target(tokens: Tokens, budget: Budget) -> Reduction:
    source = first(tokens, budget.remove) + 1
    return merged(tokens, source, source)


def one_source(tokens: Tokens, budget: Budget) -> Reduction:
    source = first(tokens, budget.remove)
    return merged(tokens, source * 0 + 1, source * 0)


def scored_merge(score: Callable[[Tokens], Tensor]) -> Answer:
    def answer(tokens: Tokens, budget: Budget) -> Reduction:
        source = first(tokens, budget.remove) + 1
        return Reduction.merge(source, source * 0, tokens.size, score=score(tokens))

    return answer


def zeroed(tokens: Tokens, budget: Budget) -> Reduction:
    tokens.hidden.zero_()
    return good(tokens, budget)


def foreign_anchor(tokens: Tokens, budget: Budget) -> Reduction:
    made = good(tokens, budget)
    assert made.slot is not None
    return replace(made, slot=made.slot.roll(1, 1))


def with_(**changes: Callable[[Tokens], Any]) -> Answer:
    def answer(tokens: Tokens, budget: Budget) -> Reduction:
        made = {name: change(tokens) for name, change in changes.items()}
        return replace(good(tokens, budget), **made)

    return answer


#: What a strategy does, and a word of the sentence that it is refused with.
WRONG: dict[str, tuple[Answer, str]] = {
    "one token": (one_token, "ascending"),
    "not ascending": (descending, "ascending"),
    "slot of another": (foreign_anchor, "another slot"),
    "replace with NaN": (
        lambda t, b: replaced(t, b, created=lambda made: made * float("nan")),
        "created tokens",
    ),
    "slots beyond K": (lambda t, b: replaced(t, b, slot=lambda s: s + 1), "slots outside"),
    "anchors outside": (lambda t, b: replaced(t, b, anchor=lambda a: a + t.count), "outside of 0"),
    "one place for all": (lambda t, b: replaced(t, b, anchor=lambda a: a * 0), "in one place"),
    "created in float64": (lambda t, b: replaced(t, b, created=lambda m: m.double()), "float64"),
    "created of another width": (
        lambda t, b: replaced(t, b, created=lambda made: made[..., :7]),
        "new tokens of shape",
    ),
    "source is target": (own_target, "merged itself"),
    "one source": (one_source, "merged a token twice"),
    "changed in place": (zeroed, "changed the hidden states"),
    "index on another device": (
        lambda t, b: Reduction.keep(first(t, b.keep).to("meta"), t.count),
        "on meta",
    ),
    "riders of a wrong shape": (
        with_(riders=lambda t: {"left": torch.zeros(1, t.count + 1)}),
        "riders 'left' of shape",
    ),
    "scores of a wrong shape": (with_(score=lambda t: t.size[:, 1:]), "scores of shape"),
    "scores that are NaN": (with_(score=lambda t: t.size * float("nan")), "scores that are NaN"),
    "infinite weights": (with_(weight=lambda t: t.size * float("inf")), "weights"),
    "slots alone": (with_(anchor=lambda t: None), "alone"),
    "weights alone": (lambda t, b: Reduction(weight=t.size), "without slots"),
    "int32 index": (
        lambda t, b: Reduction.keep(first(t, b.keep).int(), t.count),
        "int32 where torch.int64",
    ),
    "int32 anchors": (with_(anchor=lambda t: torch.zeros(1, 4, dtype=torch.int32)), "int32"),
    "a list for anchors": (with_(anchor=lambda t: [[0]]), "list"),
    "two forms": (with_(mask=lambda t: t.size > 0), "more than one"),
    "a mask though static": (lambda t, b: Reduction.keep_mask(t.size > 0), "static"),
    "wrong count": (lambda t, b: good(t, replace(b, keep=b.keep - 1)), "left 3 tokens"),
    "None": (lambda t, b: None, "NoneType"),
    "a tensor": (lambda t, b: t.hidden, "Tensor"),
    "merge with complex scores": (scored_merge(lambda t: t.size + 1j), "scores of torch.complex64"),
    "merge with narrow scores": (scored_merge(lambda t: t.size[:, 1:]), "scores of shape"),
}

#: The same, of strategies whose length depends on the data.
WRONG_LENGTH: dict[str, tuple[Answer, str]] = {
    "mask beyond the budget": (lambda t, b: Reduction.keep_mask(t.size > 0), "4 at most"),
    "none beyond the budget": (lambda t, b: Reduction.none(), "4 at most"),
    "float mask": (lambda t, b: Reduction.keep_mask(t.size), "float32"),
    "mask of a wrong shape": (lambda t, b: Reduction.keep_mask(t.size[:, 1:] > 0), "mask of shape"),
    "too few samples": (lambda t, b: Reduction.ragged([good(t, b)] * 3), "for 3 samples"),
    "a sample without places": (lambda t, b: Reduction.ragged([Reduction.none()]), "sample"),
}

#: Mistakes that torch or the tokens themselves refuse while the strategy runs.
RAISED: dict[str, Answer] = {
    "raises": lambda t, b: 1 / 0,
    "out of range": lambda t, b: Reduction.keep(first(t, b.keep) + t.count, t.count),
}


class Wrong(PruningStrategy[Fault]):
    """Answer wrongly."""

    name = "t-wrong"
    Params = Fault
    stages = EVERYWHERE

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        known = {name: answer for name, (answer, _) in (WRONG | WRONG_LENGTH).items()} | RAISED
        if self.params.fault == "unasked signal":
            tokens.signal(Signal.KEYS)
        made: Reduction = known.get(self.params.fault, good)(tokens, budget)
        return made


class WrongLength(Wrong):
    """Answer wrongly with lengths that depend on the data."""

    name = "t-wrong-length"
    stages = (PreLlm(), Decoder())
    length = "data"


class NanScores(ScoreStrategy[Fault]):
    """Scores of which all or half are NaN."""

    name = "t-nan"
    Params = Fault
    stages = EVERYWHERE

    def score(self, tokens: Tokens) -> Tensor:
        score = tokens.size.clone()
        score[:, :: 2 if self.params.fault == "half" else 1] = float("nan")
        return score


#: What is no score `[B, N]`, and how the refusal describes it.
WRONG_SCORES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a channel": (lambda s: s[..., None], r"of shape \(\d, \d+, 1\) where \[\d, \d+\]"),
    "many channels": (lambda s: s[..., None].expand(-1, -1, 4), r"of shape .* where \[\d, \d+\]"),
    "no batch": (lambda s: s[0], r"of shape \(\d+,\) where \[\d, \d+\]"),
    "too few": (lambda s: s[:, 1:], r"of shape .* where \[\d, \d+\]"),
    "too many": (lambda s: s.repeat(1, 2), r"of shape .* where \[\d, \d+\]"),
    "nothing": (lambda s: None, "that are a NoneType where a Tensor"),
    "a list": (lambda s: s.tolist(), "that are a list where a Tensor"),
    "an array": (lambda s: s.cpu().numpy(), "that are a ndarray where a Tensor"),
    "complex": (lambda s: s + 1j, "of torch.complex64 where torch.float32"),
}


class WrongScores(ScoreStrategy[Fault]):
    """Scores of a wrong kind, shape or dtype."""

    name = "t-wrong-scores"
    Params = Fault
    stages = EVERYWHERE

    def score(self, tokens: Tokens) -> Tensor:
        made: Tensor = WRONG_SCORES[self.params.fault][0](tokens.size.clone())
        return made


class Turning(PruningStrategy[Fault]):
    """Answer rightly once and wrongly from then on."""

    name = "t-turning"
    Params = Fault
    stages = EVERYWHERE

    def __init__(self, params: Fault) -> None:
        super().__init__(params)
        self.answers = 0

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        self.answers += 1
        return (good if self.answers == 1 else descending)(tokens, budget)
