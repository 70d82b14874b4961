"""What every comparison must find, whatever the methods: failures end the run with exit code 1."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tokenprune.compare.entries import Entry, Strategies
from tokenprune.compare.measure import Measured, Measurement
from tokenprune.plan import Average, StagePlan


def failed_checks(measured: Measurement, strategies: Strategies) -> list[str]:
    """Sentences about what doesn't hold.

    A plan without stages must answer as the model alone, and measured token counts must be the
    plan's.
    """
    failures = []
    if measured.idle.answers != measured.dense.answers:
        failures.append("with a plan without stages attached, the model answers differently.")
    if any(row.answers != measured.dense.answers for row in measured.again):
        failures.append("the dense model's answers differ between processes or passes.")
    for row in measured.plans:
        failures += _miscounted(row, strategies)
    return failures


def expected_tokens(entry: Entry, patches: int, strategies: Strategies) -> dict[str, int]:
    """Tokens per image that a plan must leave, by the meter's stage names.

    Strategies with a data-dependent length and average budgets are left out.
    """
    counts: dict[str, int] = {}
    arriving = patches
    for stage in entry.plan.stages:
        kind = strategies[stage.strategy]
        left = _left(stage, arriving)
        if left is None or not kind.static:
            break
        if stage.at == "encoder" and kind.restores:
            counts["encoder_inside"] = left
            continue
        counts[stage_key(stage)] = arriving = left
    return counts


def stage_key(stage: StagePlan) -> str:
    """The meter's name of a stage; a later stage of the same name replaces the count."""
    return f"decoder[{stage.layer}]" if stage.at == "decoder" else stage.at


def _left(stage: StagePlan, arriving: int) -> int | None:
    if stage.keep is None or isinstance(stage.keep, Average):
        return None
    if isinstance(stage.keep, int):
        return min(stage.keep, arriving)
    return max(1, math.floor(arriving * stage.keep + 1e-9))


def _miscounted(row: Measured, strategies: Strategies) -> Sequence[str]:
    assert row.entry is not None
    patches = round(row.tokens.get("patches", 0))
    expected = expected_tokens(row.entry, patches, strategies)
    return [
        f"{row.entry.label}: {key} measured {row.tokens.get(key)}, the plan says {count}."
        for key, count in expected.items()
        if row.tokens.get(key) is None or abs(row.tokens[key] - count) > 1e-6
    ]
