"""What every comparison must find, whatever the methods: failures end the run with exit code 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain, repeat

from tokenprune.interface.strategy import placement
from tokenprune.lab.measure.entries import Entry, Strategies
from tokenprune.lab.measure.measurement import Measured, Measurement
from tokenprune.plan import StagePlan


def failed_checks(measured: Measurement, strategies: Strategies) -> list[str]:
    """Sentences about what doesn't hold.

    A plan without stages must answer as the model alone, and measured token counts must be the
    plan's.
    """
    failures = []
    dense = measured.said(measured.dense)
    if measured.said(measured.idle) != dense:
        failures.append("with a plan without stages attached, the model answers differently.")
    if any(measured.said(row) != dense for row in measured.again):
        failures.append("the dense model's answers differ between processes or passes.")
    for row in measured.plans:
        failures += _miscounted(row, strategies)
    return failures


def expected_tokens(
    entry: Entry,
    patches: float,
    strategies: Strategies,
    measured: Mapping[str, float] | None = None,
    tiles: float = 1.0,
) -> dict[str, float]:
    """Tokens per image that a plan must keep, by the meter's stage names.

    Strategies with a data-dependent length and average budgets are left out. A ratio of a video's
    tokens is rounded down over all of its frames, so the mean per frame may lie less than a token
    below the fraction given here; what was `measured` says what arrives at the stage behind. Of a
    strategy that acts at several layers the last one counts, and only a budget in tokens. Inside an
    encoder a budget in tokens is for each of the `tiles` in which it saw an image; a ratio is of
    theirs, padding included, so nothing is expected of it and of what stands behind.
    """
    counts: dict[str, float] = {}
    arriving: float = patches
    layers = chain(_layers(measured or {}), repeat(None))
    for stage in entry.plan.stages:
        kind = strategies[stage.strategy]
        left = _left(stage, arriving, whole=entry.plan.images == "frames", tiles=tiles)
        if stage.at == "decoder" and stage.layer is None and placement(kind, "decoder").steps:
            last = stage is entry.plan.stages[-1]
            if isinstance(stage.keep, int) and last and kind.length == "planned":
                counts[stage_key(stage, max(_layers(measured or {}), default=None))] = stage.keep
            break
        if left is None or kind.length != "planned":
            break
        if stage.at == "encoder" and placement(kind, "encoder").restores:
            counts["encoder_inside"] = left
            continue
        key = stage_key(stage, next(layers) if stage.at == "decoder" else None)
        counts[key] = left
        arriving = left if left == int(left) else (measured or {}).get(key, left)
        arriving = min(arriving, patches)  # rows for padding around tiles are none of the image's
    return counts


def stage_key(stage: StagePlan, layer: int | None = None) -> str:
    """The meter's name of a stage; a later stage of the same name replaces the count.

    Args:
        stage: the stage.
        layer: where it acted, for decoder stages whose plan leaves that to the strategy.
    """
    if stage.at != "decoder":
        return stage.at
    return f"decoder[{layer if stage.layer is None else stage.layer}]"


def _layers(measured: Mapping[str, float]) -> list[int]:
    """Layers of the LLM in front of which something was counted, ascending."""
    named = [key.removeprefix("decoder[")[:-1] for key in measured if key.startswith("decoder[")]
    return sorted(map(int, named))


def _left(stage: StagePlan, arriving: float, whole: bool, tiles: float) -> float | None:
    if not isinstance(stage.keep, int | float):  # none, or known for whole prompts and tiles only
        return None
    if stage.at == "encoder" and tiles != 1:
        return stage.keep * tiles if isinstance(stage.keep, int) else None
    if isinstance(stage.keep, int):
        return min(stage.keep, arriving)
    if whole and stage.at != "encoder":  # frames are rounded together
        return arriving * stage.keep
    return max(1, math.floor(arriving * stage.keep + 1e-9))


def _miscounted(row: Measured, strategies: Strategies) -> Sequence[str]:
    assert row.entry is not None
    whole = unpruned_tokens(row.tokens)
    ragged = "units" in row.tokens
    patches = whole if ragged else round(whole)
    expected = expected_tokens(row.entry, patches, strategies, row.tokens, row.tiles)
    return [
        f"{row.entry.label}: {key} measured {row.tokens.get(key)}, the plan says {count}."
        for key, count in expected.items()
        if not _close(row.tokens.get(key), count, ragged=ragged)
    ]


def unpruned_tokens(tokens: Mapping[str, float]) -> float:
    """Visual tokens of an image, or of a frame, that the plain LLM would get in the mean."""
    return tokens.get("units", tokens.get("patches", 0.0))


def _close(measured: float | None, expected: float, *, ragged: bool) -> bool:
    """Whether a mean is the plan's.

    Of images of different sizes each one's share is rounded down by itself, at least one token is
    left, and a budget in tokens may be more than a small one has: so what the mean image would be
    left is only a bound, and one that was rounded down too.
    """
    if measured is None:
        return False
    if ragged:
        return measured < expected + 1
    return abs(measured - expected) <= (1e-6 if expected == int(expected) else 1.0)
