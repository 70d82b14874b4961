"""Demands on single answers. Each check gives the fault in words, or "" where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tokenprune.engine.checks import refuse_misplaced
from tokenprune.engine.untouched import Untouched
from tokenprune.errors import TokenpruneError
from tokenprune.errors.raised import raised_at
from tokenprune.interface.tokens import Tokens
from tokenprune.testing.record import DoesNotApplyError
from tokenprune.testing.subject import KEEP, ODD, SQUARE, VIDEO, Case, Subject

HALF = (torch.bfloat16, torch.float16)


def signals(subject: Subject) -> str:
    """Asks for signals that there are where it stands, and that something computes."""
    refuse_misplaced(subject.stage(KEEP), subject.site)
    return ""


def _answered(subject: Subject, cases: Iterable[Case]) -> str:
    """The first answer that the engine refuses, or that leads to values that aren't finite."""
    for case in cases:
        try:
            parts = subject.ask(case)
        except TokenpruneError as error:
            return f"{error.message.rstrip('.')} ({case})"
        for part in parts:
            if part.dense is None:
                continue
            tokens = case.tokens.of(part.rows)
            if not part.dense.states(tokens.hidden).isfinite().all():
                return f"the states of what is left hold NaN or infinity ({case})"
    return ""


def in_place(subject: Subject) -> str:
    """Reads, and changes nothing of what it reads."""
    for case in subject.cases(SQUARE):
        before = Untouched.of(case.tokens, values=True)
        raised = False
        try:
            subject.answer(case)
        except Exception:  # whatever a strategy raises; the row 'answers' tells it
            raised = True
        counted = before.changed(case.tokens)
        if counted:
            return f"changed the {counted} that it got in place ({case})"
        changed = [what for same, what in before.faults(case.tokens) if not bool(same)]
        if changed:
            return f"{changed[0]} ({case})"
        if raised:
            raise DoesNotApplyError("it raises, see 'answers'")
    return ""


def counts(subject: Subject) -> str:
    """Answers in the right form, with the count of the plan and sound values."""
    return _answered(subject, subject.cases(SQUARE, all_too=True))


def later(subject: Subject) -> str:
    """Takes what an earlier stage left: fewer tokens than the grid has patches, of many sizes."""
    return _answered(subject, subject.cases(SQUARE, count=11, batch=3))


def odd(subject: Subject) -> str:
    """Takes grids of odd sides and counts."""
    return _answered(subject, subject.cases(*ODD))


def video(subject: Subject) -> str:
    """Takes the frames of a video outside the encoder."""
    if subject.at == "encoder":
        raise DoesNotApplyError("inside an encoder frames come one by one")
    return _answered(subject, subject.cases(VIDEO))


def one_token(subject: Subject) -> str:
    """Takes a single token, of which none can be removed."""
    return _answered(subject, subject.cases((1, 1, 1), all_too=True))


def all_equal(subject: Subject) -> str:
    """Takes tokens that are all the same."""
    return _answered(subject, subject.cases(SQUARE, alike=True))


def half_precision(subject: Subject) -> str:
    """Takes bfloat16 and float16."""
    for dtype in HALF:
        fault = _answered(subject, subject.cases(SQUARE, dtype=dtype))
        if fault:
            return f"in {str(dtype).removeprefix('torch.')}: {fault}"
    return ""


def keep_all(subject: Subject) -> str:
    """Leaves every bit as it is where all tokens are to be kept."""
    if subject.strategy.length == "own":
        raise DoesNotApplyError("sets its own length")
    for case in subject.cases(SQUARE, all_too=True):
        tokens = case.tokens
        if case.keep < tokens.count:
            continue
        for part in subject.ask(case):
            of, dense = tokens.of(part.rows), part.dense
            if dense is None:
                continue
            if dense.created is not None:
                raise DoesNotApplyError("makes new tokens")
            if dense.length < tokens.count:
                return f"leaves {dense.length} of {tokens.count} tokens that are all to be kept"
            if not torch.equal(dense.states(of.hidden), of.hidden):
                return "changes the states of tokens that are all to be kept"
        return ""
    raise DoesNotApplyError("can't be told to keep all")


def trace(subject: Subject) -> str:
    """Tokens that are left stand for the patches of those that went into them."""
    for case in subject.cases(SQUARE, count=12):
        for part in subject.ask(case):
            dense, tokens = part.dense, case.tokens.of(part.rows)
            if dense is None or not dense.length:
                continue
            left, gone = dense.sizes(tokens.size), (tokens.size * (dense.slot < 0)).sum(dim=1)
            if (left.sum(dim=1) == 0).any():
                return f"makes new tokens that stand for no patch: every slot is -1 ({case})"
            if not torch.allclose(left.sum(dim=1) + gone, tokens.size.sum(dim=1)):
                return f"loses patches that it neither keeps nor drops ({case})"
    return ""


def no_wait(subject: Subject) -> str:
    """Needs no value to know its shapes, so a GPU is never waited for (`.item()`, a branch)."""
    if not subject.planned:
        raise DoesNotApplyError("its length depends on the data")
    for case in subject.cases(SQUARE):
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = Case(_converted(case.tokens, mode.from_tensor), case.keep)
            try:
                answer = subject.answer(fake)
                left = answer.apply(fake.tokens.hidden, fake.tokens.size).shape[1]
            except Exception as error:  # whatever a strategy does with a tensor without values
                place = raised_at(error, subject.kind)
                told = type(error).__name__ + (f", {place}" if place else "")
                return f"reads the value of a tensor ({told}), for which a GPU has to be waited for"
        if left != case.keep:
            return f"leaves {left} tokens where {case.keep} are to be kept"
    return ""


def _converted(tokens: Tokens, convert: Callable[[Tensor], Tensor]) -> Tokens:
    return replace(
        tokens,
        hidden=convert(tokens.hidden),
        size=convert(tokens.size),
        index=convert(tokens.index),
        prefix=None if tokens.prefix is None else convert(tokens.prefix),
        signals={name: convert(value.contiguous()) for name, value in tokens.signals.items()},
    )
