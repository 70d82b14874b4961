"""Call a strategy and check its answer: a valid reduction that meets the budget exactly."""

from __future__ import annotations

from collections.abc import Callable

from tokenprune.engine.answered import answered
from tokenprune.engine.conditions import Conditions
from tokenprune.engine.inert import UNCHECKED
from tokenprune.engine.stages import ResolvedStage
from tokenprune.engine.tracers import may_compile
from tokenprune.interface.dense import Part
from tokenprune.interface.tokens import Tokens


def ask(stage: ResolvedStage, tokens: Tokens, keep: int, conditions: Conditions) -> list[Part]:
    """What becomes of a dense batch: the strategy's answer, checked and in normal form.

    Form and count of the answer are checked always. Checks that compute, and so cost operations,
    run at the first call of every site and shape, or always if the attachment says so.

    Args:
        stage: the stage whose strategy is asked.
        tokens: the batch.
        keep: tokens K that the plan leaves of each sample.
        conditions: of the running call.

    Returns:
        One part for all samples, or one for those that are left equally many tokens.

    Raises:
        ReductionError: the answer is wrong in form, count or values.
        NonFiniteError: the hidden states hold NaN or infinity.
        StrategyFailedError: the strategy raised something of its own.
    """
    if conditions is UNCHECKED and stage.strategy.length == "planned":
        return answered(stage, tokens, keep, conditions, values=False)  # part of the graph
    hidden, site = tokens.hidden, tokens.site
    kind = hidden.shape, hidden.dtype, hidden.device
    values = conditions.wanted((stage.number, site.stage, site.layer, tokens.kind, *kind))
    conditions.watch(site, hidden)
    return _answering()(stage, tokens, keep, conditions, values)


def _answering() -> Callable[..., list[Part]]:
    """`answered`, or where a compiler may be tracing the same closed to it.

    A function of its own, because a graph can be resumed behind its call, and not behind an import
    inside `ask`.
    """
    if may_compile():
        # imported here, because it takes the compiler along
        from tokenprune.engine.uncompiled import answered_uncompiled

        return answered_uncompiled
    return answered
