"""Plans that differ in their seed alone, taken together."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from tokenprune.lab.studies.store import Record, digest


@dataclass(frozen=True)
class Repeated:
    """One plan under several seeds.

    Attributes:
        names: what the study calls the rows.
        accuracies: their shares of right answers, in the same order.
    """

    names: tuple[str, ...]
    accuracies: tuple[float, ...]

    @property
    def title(self) -> str:
        """The name without the seed, if the study named it so; else all names."""
        plain = {re.sub(r" ?seed=\d+", "", name) for name in self.names}
        return plain.pop() if len(plain) == 1 else ", ".join(self.names)

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return fmean(self.accuracies)

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds, that of a sample."""
        return stdev(self.accuracies)


def repeated(cells: Sequence[tuple[Record, float]]) -> list[Repeated]:
    """The plans that stand under two seeds or more.

    Args:
        cells: records of one group, each with its accuracy.
    """
    found: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for record, accuracy in cells:
        found[digest(without_seed(record))].append((str(record.identity["name"]), accuracy))
    several = (tuple(zip(*rows, strict=True)) for rows in found.values() if len(rows) > 1)
    return [Repeated(names, accuracies) for names, accuracies in several]


def without_seed(record: Record) -> dict[str, Any]:
    """A record's plan but for its seed and its name."""
    plan = record.identity["plan"]
    return {key: value for key, value in plan.items() if key not in ("seed", "name")}
