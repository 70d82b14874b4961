"""Plans that differ in their seed alone, taken together."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from tokenprune.lab.judge.judge import without_seed
from tokenprune.lab.judge.result import Result


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


def repeated(results: Sequence[Result]) -> list[Repeated]:
    """The plans that stand under two seeds or more among the results of one group."""
    found: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for result in results:
        plan = without_seed(result.run.plan).model_dump_json()
        found[plan].append((result.name, result.accuracy.value))
    several = (tuple(zip(*rows, strict=True)) for rows in found.values() if len(rows) > 1)
    return [Repeated(names, accuracies) for names, accuracies in several]
