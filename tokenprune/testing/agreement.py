"""Demands on answers to be compared: of two calls, of samples and their batch, of two builds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import PruningStrategy
from tokenprune.interface.tokens import Tokens
from tokenprune.interface.trainable import TrainableStrategy
from tokenprune.ops import topk_indices
from tokenprune.testing.record import DoesNotApplyError
from tokenprune.testing.subject import SQUARE, Case, Subject

PARTS = ("anchor", "slot", "weight", "created", "mask", "score")
TOLERANCE = 1e-4


def repeats(subject: Subject) -> str:
    """Answers the same tokens the same, whatever it was asked in between."""
    for case in subject.cases(SQUARE):
        first = subject.answer(case)
        for other in subject.cases((1, 3, 5), SQUARE, all_too=True, batch=1, seed=subject.seed + 1):
            subject.answer(other)
        fault = _difference(first, subject.answer(case))
        if fault:
            return f"{fault} when it is asked again ({case})"
    return ""


def seeds(subject: Subject) -> str:
    """Draws from `Tokens.seed` alone, and leaves torch's own generator as it was."""
    for case in subject.cases(SQUARE):
        answers = []
        for state in (0, 1):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(state)
                before = torch.get_rng_state()
                answers.append(subject.answer(case))
                if not torch.equal(torch.get_rng_state(), before):
                    return "draws from torch's global generator, not from tokens.seed"
        fault = _difference(*answers)
        if fault:
            return f"{fault} under another state of torch's global generator"
    return ""


def batch(subject: Subject) -> str:
    """A batch is answered as its samples alone."""
    for case in subject.cases(SQUARE, count=12, batch=3):
        together = subject.answer(case)
        for row in range(3):
            alone = subject.answer(Case(case.tokens.of([row]), case.keep))
            fault = _difference(together.row(row), alone.row(0))
            if fault:
                return f"{fault} when sample {row} is alone ({case})"
    return ""


def order(subject: Subject) -> str:
    """Samples in another order are answered the same."""
    turned = [2, 0, 1]
    for case in subject.cases(SQUARE, count=12, batch=3):
        tokens = case.tokens
        other = Case(_reordered(tokens, turned), case.keep)
        first, second = subject.answer(case), subject.answer(other)
        for new, old in enumerate(turned):
            fault = _difference(first.row(old), second.row(new))
            if fault:
                return f"{fault} when the samples come in another order ({case})"
    return ""


def ties(subject: Subject) -> str:
    """Where the tokens of the largest scores are kept, equal scores keep the lower index."""
    plain, tied = ([*subject.cases(SQUARE, alike=alike)] for alike in (False, True))
    if not all(_takes_largest(subject.answer(case), case.keep) for case in plain):
        raise DoesNotApplyError("doesn't keep the tokens of the largest scores")
    for case in tied:
        if not _takes_largest(subject.answer(case), case.keep):
            return f"doesn't keep the lower index where scores are equal ({case})"
    return ""


def saved(subject: Subject) -> str:
    """Built anew from its saved parameters, and weights, it answers the same."""
    kind = subject.kind
    cases = [*subject.cases(SQUARE)]
    again: PruningStrategy[Any]
    if isinstance(subject.strategy, TrainableStrategy):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights.safetensors"
            subject.strategy.save_checkpoint(path)
            kept = {k: v for k, v in subject.given.items() if k not in subject.made}
            again = kind.from_params(**kept, checkpoint=path)
            if isinstance(again, TrainableStrategy):
                again.train(False)
    else:
        text = subject.strategy.params.model_dump_json(by_alias=True)
        again = kind(kind.Params.model_validate_json(text))
    for case in cases:
        other = Subject(kind, again, {}, {}, subject.site, subject.width, subject.seed)
        fault = _difference(subject.answer(case), other.answer(case))
        if fault:
            return f"{fault} when it is built from what was saved ({case})"
    return ""


def _takes_largest(answer: Reduction, keep: int) -> bool:
    if answer.score is None or answer.anchor is None or answer.anchor.shape[1] != keep:
        return False
    if answer.weight is not None or answer.created is not None:
        return False
    return torch.equal(answer.anchor, topk_indices(answer.score, keep))


def _reordered(tokens: Tokens, rows: list[int]) -> Tokens:
    return replace(
        tokens,
        hidden=tokens.hidden[rows],
        size=tokens.size[rows],
        index=tokens.index[rows],
        prefix=None if tokens.prefix is None else tokens.prefix[rows],
        signals={name: value[rows] for name, value in tokens.signals.items()},
    )


def _difference(one: Reduction, two: Reduction) -> str:
    """What differs between two answers to the same tokens, in words; "" if nothing does."""
    if one.samples or two.samples:
        if len(one.samples) != len(two.samples):
            return "answers for another number of samples"
        faults = (_difference(a, b) for a, b in zip(one.samples, two.samples, strict=True))
        return next((fault for fault in faults if fault), "")
    for name, (left, right) in _pairs(one, two):
        if (left is None) != (right is None):
            return f"gives a {name} only once"
        if left is None or right is None:
            continue
        if left.shape != right.shape:
            return f"answers with a {name} of {list(right.shape)} instead of {list(left.shape)}"
        if left.is_floating_point():
            alike = torch.allclose(left, right, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
        else:
            alike = torch.equal(left, right)
        if not alike:
            return f"answers with another {name}"
    return ""


def _pairs(
    one: Reduction, two: Reduction
) -> Iterator[tuple[str, tuple[Tensor | None, Tensor | None]]]:
    for name in PARTS:
        yield name, (getattr(one, name), getattr(two, name))
