"""A strategy's answer to one batch: asked for, checked and in normal form, as dense parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tokenprune.engine.answers import Asked, faults, harmless
from tokenprune.engine.conditions import Conditions
from tokenprune.engine.inert import UNCHECKED
from tokenprune.engine.stages import ResolvedStage
from tokenprune.engine.untouched import Untouched
from tokenprune.errors import ReductionError, StrategyFailedError, TokenpruneError
from tokenprune.errors.raised import raised
from tokenprune.interface.dense import Part
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens


def answered(
    stage: ResolvedStage, tokens: Tokens, keep: int, conditions: Conditions, values: bool
) -> list[Part]:
    """As `tokenprune.engine.ask.ask`, which says when values are looked at.

    Args:
        stage: the stage whose strategy is asked.
        tokens: the batch.
        keep: tokens K that the plan leaves of each sample.
        conditions: of the running call.
        values: whether to check what has to be computed.
    """
    asked = Asked(stage, tokens)
    if values:
        conditions.require_finite(tokens.site, tokens.hidden)
    _follow(stage, tokens.hidden.device)
    # torch counts no changes of what is made in inference mode
    counted = conditions is not UNCHECKED and not torch.is_inference_mode_enabled()
    before = Untouched.of(tokens, values=values) if values or counted else None
    answer = _answer(stage, tokens, keep, conditions)
    changed = "" if before is None else before.changed(tokens)
    if changed:
        raise asked.error(f"changed the {changed} that it got in place")
    asked.form(answer)
    if values and before is not None:
        for fulfilled, what in (*before.faults(tokens), *faults(answer, tokens.count)):
            conditions.require(fulfilled, asked.error(what))
        answer = harmless(answer, tokens.count)
    if tokens.kind == "text":
        _refuse_text(asked, answer)
    parts = normal(answer)
    _refuse_length(asked, answer, parts, keep)
    return parts


def _follow(stage: ResolvedStage, device: torch.device) -> None:
    """Move a strategy's modules to its tokens: models are moved, and spread over devices."""
    modules = stage.strategy.modules()
    example = None if modules is None else next(modules.parameters(), None)
    if modules is not None and example is not None and example.device != device:
        modules.to(device=device)


def _answer(stage: ResolvedStage, tokens: Tokens, keep: int, conditions: Conditions) -> Reduction:
    given = tokens.kind == "text" or stage.plan.keep is not None
    try:
        return stage.strategy.reduce(tokens, Budget(tokens.count, keep, given))
    except ReductionError as error:  # of a score, which the strategy's short form refuses
        error.where = f"{stage.where}, {tokens.site}"
        raise
    except (TokenpruneError, torch.OutOfMemoryError):
        raise
    except Exception as cause:
        conditions.explain(cause)
        said = raised(cause, type(stage.strategy)).rstrip(".")
        raise StrategyFailedError(
            f"the strategy '{stage.strategy.name}' {said}.",
            where=f"{stage.where}, {tokens.site}",
            remedy="The model is usable as before; report this to the strategy's author.",
        ) from cause


def _refuse_text(asked: Asked, answer: Reduction) -> None:
    """Refuse whatever makes new text tokens."""
    for sample in answer.samples or (answer,):
        if any(part is not None for part in (sample.weight, sample.created, sample.reconstruction)):
            raise asked.error("merged or replaced text tokens, which can only be kept or dropped")


def _refuse_length(asked: Asked, answer: Reduction, parts: Sequence[Part], keep: int) -> None:
    """Hold static strategies to the number that the plan says, and others to its ceiling."""
    stage, tokens = asked.stage, asked.tokens
    planned = stage.strategy.length == "planned"
    if planned and (answer.mask is not None or answer.samples):
        what = "a mask" if answer.mask is not None else "lengths of each sample's own"
        raise asked.error(f"is static but answered with {what}")
    left = 0
    for part in parts:
        left = max(left, tokens.count if part.dense is None else part.dense.length)
    if planned:
        if left != keep:
            raise asked.error(f"left {left} tokens where the plan says {keep}")
        return
    given = stage.plan.keep if tokens.kind == "visual" else stage.plan.keep_text
    if given is not None and left > keep:
        raise asked.error(f"left {left} tokens where the plan allows {keep} at most")


def normal(answer: Reduction) -> list[Part]:
    """An answer as dense parts, each for the samples that it leaves equally many tokens.

    Args:
        answer: of right form.
    """
    if answer.samples:
        return _alike(answer.samples)
    if answer.mask is not None:
        return _masked(answer, answer.mask)
    return [Part(None, answer.dense, answer.riders, answer.score, answer.reconstruction)]


def _masked(answer: Reduction, mask: Tensor) -> list[Part]:
    counts, parts = mask.sum(dim=1).tolist(), []
    for count in sorted(set(counts)):
        rows = [row for row, value in enumerate(counts) if value == count]
        index = mask[rows].nonzero()[:, 1].view(len(rows), count)
        score = None if answer.score is None else answer.score[rows]
        riders = {name: value[rows] for name, value in answer.riders.items()}
        parts.append(Part(rows, Reduction.keep(index, mask.shape[1]).dense, riders, score))
    return parts


def _alike(samples: Sequence[Reduction]) -> list[Part]:
    """Dense reductions of single samples, stacked where they carry the same things."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for number, one in enumerate(samples):
        given = (one.weight is None, one.created is None, one.score is None, *sorted(one.riders))
        alike.setdefault((one.length, *given), []).append(number)
    parts = []
    for rows in alike.values():
        one = _stacked([samples[row] for row in rows])
        parts.append(Part(rows, one.dense, one.riders, one.score))
    return parts


def _stacked(samples: Sequence[Reduction]) -> Reduction:
    def joined(name: str) -> Tensor | None:
        values = [getattr(sample, name) for sample in samples]
        return None if values[0] is None else torch.cat(values)

    return Reduction(
        anchor=joined("anchor"),
        slot=joined("slot"),
        weight=joined("weight"),
        created=joined("created"),
        score=joined("score"),
        riders={
            name: torch.cat([sample.riders[name] for sample in samples])
            for name in samples[0].riders
        },
    )
