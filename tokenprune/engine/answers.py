"""What is wrong with a strategy's answer: in its form, seen without computing, or in its values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokenprune.engine.conditions import at_once
from tokenprune.engine.stages import ResolvedStage
from tokenprune.errors import ReductionError
from tokenprune.interface.forms import NUMBERS, PLACES, SCORES, form_fault
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import take


class Asked(NamedTuple):
    """A strategy and the tokens it was asked about; the source of errors about its answer."""

    stage: ResolvedStage
    tokens: Tokens

    def error(self, what: str) -> ReductionError:
        """The error that says `what` the strategy did, and where."""
        count, batch = self.tokens.count, self.tokens.hidden.shape[0]
        return ReductionError(
            f"the strategy '{self.stage.strategy.name}' {what}.",
            where=f"{self.stage.where}, {self.tokens.site}",
            remedy=f"It got {count} tokens in a batch of {batch}.",
        )

    def form(self, answer: Reduction) -> None:
        """Refuse a wrong kind, shape, dtype or device; reads no value.

        Raises:
            ReductionError: naming the strategy, the site and the part.
        """
        if not isinstance(answer, Reduction):
            raise self.error(f"answered with {type(answer).__name__}, not with a Reduction")
        if answer.pairs is not None and self._merges(answer):
            return
        forms = (answer.mask is not None, answer.anchor is not None, bool(answer.samples))
        if sum(forms) > 1:
            raise self.error("answered with more than one of slots, a mask and samples")
        if answer.samples:
            self._samples(answer.samples)
            return
        if (answer.anchor is None) != (answer.slot is None):
            raise self.error("answered with slots or anchors alone")
        if answer.anchor is None:
            changes = (answer.weight, answer.created, answer.reconstruction)
            if any(part is not None for part in changes):
                raise self.error("answered with weights, new or dropped tokens, but without slots")
        self._parts(answer, self.tokens.hidden.shape[0])

    def _merges(self, answer: Reduction) -> bool:
        """Whether it is a merge in its right form and nothing else but scores.

        Told at a glance, since merges come at many blocks; `form` finds out what is wrong with
        other answers.
        """
        anchor, slot, score = answer.anchor, answer.slot, answer.score
        size, place = self.tokens.size, self.tokens.index.device
        if answer.mask is not None or answer.samples or answer.riders:
            return False
        if answer.created is not None or answer.reconstruction is not None:
            return False
        if score is not None and not (
            isinstance(score, Tensor)
            and score.shape == size.shape
            and score.device == place
            and score.dtype in SCORES
        ):
            return False
        return (
            isinstance(anchor, Tensor)
            and isinstance(slot, Tensor)
            and answer.weight is size
            and anchor.ndim == 2
            and slot.shape == size.shape
            and anchor.shape[0] == slot.shape[0]
            and anchor.dtype == slot.dtype == torch.int64
            and anchor.device == slot.device == place
        )

    def _samples(self, samples: tuple[Reduction, ...]) -> None:
        if len(samples) != self.tokens.hidden.shape[0]:
            raise self.error(f"answered for {len(samples)} samples")
        for sample in samples:
            if sample.anchor is None or sample.slot is None:
                raise self.error("answered with a sample that isn't a dense reduction of its own")
            if sample.reconstruction is not None:
                raise self.error("can't reconstruct what it dropped, sample by sample")
            self._parts(sample, 1)

    def _parts(self, one: Reduction, batch: int) -> None:
        tokens, full = self.tokens, (batch, self.tokens.count)
        if one.anchor is not None:
            self._tensor("anchors", one.anchor, (batch, None), PLACES)
            self._tensor("slots", one.slot, full, PLACES)
        if one.mask is not None:
            self._tensor("a mask", one.mask, full, (torch.bool,))
        if one.weight is not None and one.weight is not tokens.size:
            self._tensor("weights", one.weight, full, NUMBERS)
        if one.score is not None:
            self._tensor("scores", one.score, full, SCORES)
        if one.created is not None:
            shape = (batch, one.length, tokens.hidden.shape[2])
            self._tensor("new tokens", one.created, shape, _castable(tokens.hidden))
        for name, value in one.riders.items():
            self._tensor(f"riders '{name}'", value, full, None, more=True)

    def _tensor(
        self,
        name: str,
        value: Any,
        shape: tuple[int | None, ...],
        dtypes: tuple[torch.dtype, ...] | None,
        more: bool = False,
    ) -> None:
        fault = form_fault(name, value, shape, dtypes, more=more)
        if fault:
            raise self.error(fault)
        device = self.tokens.hidden.device
        if value.device not in (device, self.tokens.index.device):
            raise self.error(f"answered with {name} on {value.device} where {device} is right")


def _castable(hidden: Tensor) -> tuple[torch.dtype, ...]:
    """Dtypes of new tokens, the right one first.

    Learned layers may run in float32 beside a smaller model, or under autocast; the engine casts.
    """
    kind = hidden.device.type
    autocast = (torch.get_autocast_dtype(kind),) if torch.is_autocast_enabled(kind) else ()
    return hidden.dtype, torch.float32, *autocast


def faults(answer: Reduction, count: int) -> Iterator[tuple[Tensor, str]]:
    """What the values of an answer must fulfil: a bool scalar, and what was done if it is False.

    Args:
        answer: of right form.
        count: tokens N that each sample had.
    """
    for sample in answer.samples or (answer,):
        # pairs first, since wrong ones make wrong places
        if sample.pairs is not None:
            yield from _pairs(*sample.pairs, count)
        if sample.anchor is not None and sample.slot is not None:
            yield from _places(sample.anchor, sample.slot, count, made=sample.created is not None)
        if sample.weight is not None:
            sound = sample.weight.isfinite() & (sample.weight >= 0)
            yield sound.all(), "answered with weights that are negative or not finite"
        if sample.created is not None:
            yield sample.created.isfinite().all(), "created tokens that hold NaN or infinity"
        if sample.score is not None:
            yield sample.score.isfinite().all(), "answered with scores that are NaN or infinite"


def _places(
    anchor: Tensor, slot: Tensor, count: int, *, made: bool
) -> Iterator[tuple[Tensor, str]]:
    slots = anchor.shape[1]
    inside = (anchor >= 0) & (anchor < count)
    yield inside.all(), f"answered with tokens outside of 0 to {count - 1}"
    if made:  # new tokens may come in any order, and need not stand in their own group
        apart = (anchor.sort(dim=1).values.diff(dim=1) > 0).all()
        yield apart, "put several new tokens in one place"
    else:
        ascending = (anchor.diff(dim=1) > 0).all()
        yield ascending, "answered with tokens that aren't strictly ascending"
    known = (slot >= -1) & (slot < slots)
    yield known.all(), f"answered with slots outside of -1 to {slots - 1}"
    if not made:
        # clamped, since on a GPU a place outside would end the process before it is reported
        own = take(slot, anchor.clamp(0, count - 1)) if count else anchor
        order = torch.arange(slots, device=anchor.device)
        yield (own == order).all(), "put a kept token in another slot than its own"


def _pairs(source: Tensor, target: Tensor, count: int) -> Iterator[tuple[Tensor, str]]:
    once = (source.sort(dim=1).values.diff(dim=1) > 0).all()
    yield once, "merged a token twice"
    gone = source.new_zeros(source.shape[0], count).scatter(1, source, 1)
    yield (take(gone, target) == 0).all(), "merged a token into one that is merged itself"


def harmless(answer: Reduction, count: int) -> Reduction:
    """The answer with all places inside, where it goes on before its faults are known.

    A place outside ends the process on a GPU; faults are raised at the end of the call there.
    """
    if answer.samples:
        return replace(answer, samples=tuple(harmless(sample, count) for sample in answer.samples))
    if answer.anchor is None or answer.slot is None or at_once(answer.anchor):
        return answer
    anchor = answer.anchor.clamp(0, count - 1)
    slot = answer.slot.clamp(-1, anchor.shape[1] - 1)
    made = slot if answer.made is answer.slot else None
    return replace(answer, anchor=anchor, slot=slot, made=made)
