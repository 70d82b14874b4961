"""What every row of a verification has in common."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.stages import ResolvedStage
from tokenprune.errors import StrategyFailedError
from tokenprune.interface.trace import ImageTrace
from tokenprune.lab.verify import names
from tokenprune.lab.verify.observing import Observer, SeenCall
from tokenprune.lab.verify.record import InvariantRow
from tokenprune.lab.verify.reference import FullRun, MaskScope, scope_of
from tokenprune.lab.verify.subject import VerifiedModel
from tokenprune.plan import Plan
from tokenprune.testing.plain.comparing import TOLERANCES, Difference
from tokenprune.testing.plain.footprint import Footprint

INVARIANTS = {
    "keep_all": "a plan that keeps all tokens equals the model without a plan",
    "detach": "detaching restores the model, and leaves nothing on it",
    "counts": "every stage leaves what the plan says, and layers see no more",
    "batch": "a batch gives what its samples give alone",
    "padding": "padding in front of a prompt changes nothing",
    "encoder": "a shortened encoder equals the full one with removed patches hidden",
    "prefill": "a shortened prompt equals the full one with removed tokens hidden as keys",
    "decoding": "so do the steps of decoding behind it",
    "generation": "generation returns the prompt first, then that reference's tokens",
    "leftovers": "calls and exceptions leave nothing behind",
    "threads": "calls in several threads don't meet",
}


@dataclass
class Bench:
    """What the rows share: the subject under its plan, and its calls, each made once.

    Attributes:
        subject: the model with its samples.
        plan: the plan.
        observer: attaches it.
        pristine: what was set on the model before any plan was attached.
    """

    subject: VerifiedModel
    plan: Plan
    observer: Observer
    pristine: Footprint
    _inputs: dict[torch.dtype, list[Any]] = field(default_factory=dict)

    @cached_property
    def stages(self) -> Sequence[ResolvedStage]:
        """The plan's stages, as they are attached."""
        with self.observer.attached() as handle:
            return handle.stages

    @property
    def inputs(self) -> list[Any]:
        """Of every sample alone, in the type that the model runs in."""
        subject = self.subject
        if subject.dtype not in self._inputs:
            made = [subject.inputs([sample]) for sample in subject.samples]
            self._inputs[subject.dtype] = made
        return self._inputs[subject.dtype]

    @cached_property
    def plain(self) -> list[list[Tensor]]:
        """What the model gave for every sample alone before a plan was attached for a row."""
        return [self.subject.outputs(one) for one in self.inputs]

    @cached_property
    def forwards(self) -> list[SeenCall]:
        """One forward of every sample alone."""
        with self.observer.attached() as handle:
            return [self.observer.forward(handle, one) for one in self.inputs]

    @cached_property
    def generations(self) -> list[SeenCall]:
        """One generation of every sample alone."""
        with self.observer.attached() as handle:
            return [self.observer.generate(handle, one) for one in self.inputs]

    @cached_property
    def references(self) -> list[tuple[Tensor, list[Tensor]]]:
        """The same generations at full length: tokens, and the logits of every step."""
        found = []
        for seen in self.generations:
            with FullRun(self.subject, self.stages, seen, self.scope).installed():
                found.append(self.subject.generate(seen.inputs))
        return found

    @cached_property
    def scope(self) -> MaskScope:
        """What of the plan a full-length run reproduces."""
        answers = [answer for seen in self.forwards for answer in seen.answers]
        spec, tower = self.subject.mllm, self.subject.tower
        followed = tower is not None and not tower.spec().packed
        unhidden = ""
        if spec is not None:
            longest = max(seen.inputs[names.PROMPT].shape[1] for seen in self.forwards)
            unhidden = spec.unhidden(longest + self.subject.new_tokens)
        return scope_of(self.plan, answers, followed=followed, unhidden=unhidden)

    @property
    def tolerance(self) -> float:
        """Of rows that aren't exact, in the dtype that the model runs in."""
        return TOLERANCES[self.subject.dtype]

    def judged(
        self,
        key: str,
        difference: Difference,
        compared: str,
        *,
        tolerance: float | None = None,
        faults: Sequence[str] = (),
        note: str = "",
    ) -> InvariantRow:
        """A row that passes if the difference is small enough and there are no other faults."""
        allowed = self.tolerance if tolerance is None else tolerance
        if not difference.values and not faults:
            faults = ["nothing was compared"]
        passed = difference.value <= allowed and not faults
        told = "; ".join(part for part in (*faults[:3], note) if part)
        return InvariantRow(
            key,
            INVARIANTS[key],
            "pass" if passed else "fail",
            difference.value,
            allowed,
            self._dtype,
            compared,
            told,
        )

    def skipped(self, key: str, reason: str) -> InvariantRow:
        """A row that doesn't apply."""
        return InvariantRow(key, INVARIANTS[key], "does not apply", note=reason)

    @property
    def _dtype(self) -> str:
        return str(self.subject.dtype).removeprefix("torch.")

    def guarded(self, key: str, check: Callable[[Bench], InvariantRow]) -> InvariantRow:
        """The row of a check; one that raises fails, and the next ones go on."""
        try:
            return check(self)
        except Exception as error:
            told = f"{type(error).__name__}: {error}{_place(error)}"
            return InvariantRow(key, INVARIANTS[key], "fail", None, None, self._dtype, "", told)


def _place(error: Exception) -> str:
    """The line that raised; what a strategy raised is told with a line of the strategy's own."""
    if isinstance(error, StrategyFailedError):
        return ""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f" ({PurePath(place.filename).name}:{place.lineno}, in {place.name})"


def counted(number: int, what: str) -> str:
    """`1 prompt`, `3 prompts`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def same_images(first: Sequence[ImageTrace], second: Sequence[ImageTrace]) -> bool:
    """Whether of two traces' images the same tokens were kept and merged."""
    if len(first) != len(second):
        return False
    return all(
        len(a.steps) == len(b.steps)
        and all(
            torch.equal(x.anchor, y.anchor) and torch.equal(x.assignment, y.assignment)
            for x, y in zip(a.steps, b.steps, strict=True)
        )
        for a, b in zip(first, second, strict=True)
    )
