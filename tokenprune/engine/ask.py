"""Ask a strategy and hold it to its word: valid, exact in count, dense where ragged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from tokenprune.engine.stages import ResolvedStage
from tokenprune.errors import ReductionError, StrategyFailedError, TokenpruneError
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens

_Function = TypeVar("_Function", bound=Callable[..., object])
# a compiled model breaks its graph here: plugins may do anything
_uncompiled: Callable[[_Function], _Function] = torch.compiler.disable


@_uncompiled
def ask(stage: ResolvedStage, tokens: Tokens, keep: int) -> Reduction:
    """The strategy's reduction of a dense batch, checked against its budget.

    Raises:
        ReductionError: the answer has a wrong shape or count.
        StrategyFailedError: the strategy raised something of its own.
    """
    strategy = stage.strategy
    given = tokens.kind == "text" or stage.plan.keep is not None
    try:
        reduction = strategy.reduce(tokens, Budget(tokens.count, keep, given))
    except (TokenpruneError, torch.OutOfMemoryError):
        raise
    except Exception as cause:
        raise StrategyFailedError(
            f"the strategy '{strategy.name}' raised {type(cause).__name__}: {cause}",
            where=f"{stage.where}, {tokens.site}",
            remedy="The model is usable as before; report this to the strategy's author.",
        ) from cause
    _check(stage, tokens, keep, reduction)
    return reduction


def _check(stage: ResolvedStage, tokens: Tokens, keep: int, reduction: Reduction) -> None:
    if not isinstance(reduction, Reduction):
        _refuse(stage, tokens, f"answered with {type(reduction).__name__}, not with a Reduction")
    dense = reduction.samples or (reduction,)
    made = [part for one in dense for part in (one.weight, one.created, one.reconstruction)]
    if tokens.kind == "text" and any(part is not None for part in made):
        _refuse(stage, tokens, "merged or replaced text tokens, which can only be kept or dropped")
    if stage.strategy.length == "own":
        _check_ceiling(stage, tokens, keep, reduction)
    if reduction.samples:
        _check_samples(stage, tokens, reduction.samples)
        return
    if reduction.mask is not None:
        if stage.strategy.length == "planned":
            _refuse(stage, tokens, "is static but answered with a mask")
        if reduction.mask.shape != tokens.size.shape:
            _refuse(stage, tokens, f"answered with a mask of shape {tuple(reduction.mask.shape)}")
        return
    left = reduction.length if reduction.changes else tokens.count
    if stage.strategy.length == "planned" and left != keep:
        _refuse(stage, tokens, f"left {left} tokens where the plan says {keep}")
    if reduction.slot is not None and reduction.slot.shape != tokens.size.shape:
        _refuse(stage, tokens, f"answered with slots of shape {tuple(reduction.slot.shape)}")


def _check_ceiling(stage: ResolvedStage, tokens: Tokens, keep: int, reduction: Reduction) -> None:
    given = stage.plan.keep if tokens.kind == "visual" else stage.plan.keep_text
    if given is None:
        return
    left = reduction.length if reduction.anchor is not None else tokens.count
    if reduction.mask is not None:
        left = int(reduction.mask.sum(dim=1).max())
    elif reduction.samples:
        left = max((one.length for one in reduction.samples if one.anchor is not None), default=0)
    if left > keep:
        _refuse(stage, tokens, f"left {left} tokens where the plan allows {keep} at most")


def _check_samples(stage: ResolvedStage, tokens: Tokens, samples: Sequence[Reduction]) -> None:
    if stage.strategy.length == "planned":
        _refuse(stage, tokens, "is static but answered with lengths of each sample's own")
    if len(samples) != tokens.hidden.shape[0]:
        _refuse(stage, tokens, f"answered for {len(samples)} samples")
    for one in samples:
        if one.anchor is None or one.slot is None or one.slot.shape != (1, tokens.count):
            _refuse(stage, tokens, "answered with a sample that isn't a dense reduction of its own")
        if one.reconstruction is not None:
            _refuse(stage, tokens, "can't reconstruct what it dropped, sample by sample")


def _refuse(stage: ResolvedStage, tokens: Tokens, what: str) -> None:
    raise ReductionError(
        f"the strategy '{stage.strategy.name}' {what}.",
        where=f"{stage.where}, {tokens.site}",
        remedy=f"It got {tokens.count} tokens in a batch of {tokens.hidden.shape[0]}.",
    )


def stacked(samples: Sequence[Reduction]) -> Iterator[tuple[list[int], Reduction]]:
    """Dense reductions of the samples that are alike in length and in what they carry.

    Args:
        samples: dense reductions of a batch of one, without reconstruction.

    Yields:
        Numbers of the samples, and their reduction.
    """
    alike: dict[tuple[object, ...], list[int]] = {}
    for number, one in enumerate(samples):
        given = (one.weight is None, one.created is None, one.score is None, *sorted(one.riders))
        alike.setdefault((one.length, *given), []).append(number)
    for numbers in alike.values():
        yield numbers, _stack([samples[number] for number in numbers])


def _stack(samples: Sequence[Reduction]) -> Reduction:
    def joined(name: str) -> Tensor | None:
        values = [getattr(one, name) for one in samples]
        return None if values[0] is None else torch.cat(values)

    return Reduction(
        anchor=joined("anchor"),
        slot=joined("slot"),
        weight=joined("weight"),
        created=joined("created"),
        score=joined("score"),
        riders={
            name: torch.cat([one.riders[name] for one in samples]) for name in samples[0].riders
        },
    )
