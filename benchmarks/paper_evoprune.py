"""What EvoPrune's paper (arXiv 2603.03681) reports of its own parts and schedules.

These are the paper's numbers, on LLaVA-Video-7B with 64 frames of 64 or 16 tokens each. They stand
here to be put beside what `benchmarks.reproduction` measures on another model with other budgets,
where only their order can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ablation:
    """A row of the paper's Table 3, at 64 tokens a frame.

    Attributes:
        mvbench, longvideobench, videomme: accuracy in percent.
        average: their mean.
        relative: percent of the unpruned model's.
    """

    mvbench: float
    longvideobench: float
    videomme: float
    average: float
    relative: float


TABLE_3 = {
    "dense": Ablation(58.0, 56.0, 59.7, 57.9, 100.0),
    "similarity only": Ablation(54.6, 54.3, 59.0, 55.9, 96.5),
    "without attention": Ablation(55.5, 54.9, 59.7, 56.7, 97.9),
    "without diversity": Ablation(56.2, 55.2, 60.4, 57.3, 98.9),
    "evoprune": Ablation(56.9, 55.5, 60.6, 57.7, 99.7),
}

SCHEDULES = {
    "evoprune": "Video-MME 60.44 at 64, 55.56 at 16",
    "mean": "Video-MME 60.04 at 64, 52.96 at 16",
    "first": "Video-MME 52.44 at 16",
    "last": "with increasing: up to 60.78 on Video-MME",
    "increasing": "with last: up to 60.78 on Video-MME",
    "decreasing": "MVBench 41.49 at 16",
}
"""Appendix A, tokens a frame; the paper plots the rest. `evoprune` is its default, skip."""


@dataclass(frozen=True)
class Ordering:
    """Two variants in the order that the paper reports.

    Attributes:
        better, worse: names of the variants.
        evidence: the paper's numbers, in this order.
    """

    better: str
    worse: str
    evidence: str


def _ablation(better: str, worse: str) -> Ordering:
    first, second = (TABLE_3[name].relative for name in (better, worse))
    return Ordering(better, worse, f"Table 3: {first} against {second} % of dense")


_PARTS = ("evoprune", "without diversity", "without attention", "similarity only")
_LATE = "App. A: up to 60.78 for last and increasing, against 60.44"

ORDERINGS = (
    *(_ablation(a, b) for place, a in enumerate(_PARTS) for b in _PARTS[place + 1 :]),
    Ordering("evoprune", "mean", "App. A: 60.44 against 60.04 at 64, 55.56 against 52.96 at 16"),
    Ordering("evoprune", "first", "App. A: 55.56 against 52.44 at 16"),
    Ordering("evoprune", "decreasing", "App. A: 41.49 at 16 on MVBench, where Table 2 has 55.8"),
    Ordering("last", "evoprune", _LATE),
    Ordering("increasing", "evoprune", _LATE),
)

TOME = (
    Ordering("evoprune", "tome", "none: the paper has no row of ToMe"),
    Ordering("evoprune", "tome, skip", "none: the paper has no row of ToMe"),
)
"""Not the paper's: whether the full score is worth more than plain token merging."""
