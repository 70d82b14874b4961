"""What plans are called and marked as in all plots: one sign for each combination of strategies."""

from __future__ import annotations

from collections.abc import Sequence

from tokenprune.lab.judge import Result
from tokenprune.lab.studies.load import DENSE
from tokenprune.lab.studies.summary import Group

#: Number of shapes and of colours; with more families than that, pairs of both are new.
SIGNS = 8

#: What the plots show accuracy over.
COSTS = {
    "tokens": "visual tokens per image",
    "flops": "FLOPs / dense",
    "time": "time / dense",
}


def family(row: Result) -> str:
    """What rows share that differ in budget and seed only: the plan's strategies."""
    return " + ".join(dict.fromkeys(stage.strategy for stage in row.run.plan.stages)) or DENSE


def families(groups: Sequence[Group]) -> list[str]:
    """All families, dense first, then by name."""
    found = {family(row) for group in groups for row in group.rows}
    return sorted(found, key=lambda name: (name != DENSE, name))


def sign(number: int) -> tuple[int, int]:
    """Shape and colour of a family by its number; no two of the first 64 are the same."""
    return (number + number // SIGNS) % SIGNS, number % SIGNS


def cost_of(row: Result, cost: str) -> float:
    """A row's place on the axis of one of `COSTS`."""
    return {"tokens": row.run.mean_tokens, "flops": row.flops_ratio, "time": row.total.value}[cost]
