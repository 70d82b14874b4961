"""The judge of `compare` and `studies`: what measured runs state, and how it is told."""

from tokenprune.lab.judge.judge import Judge
from tokenprune.lab.judge.result import PlanRun, Result, Samples

__all__ = ["Judge", "Result", "PlanRun", "Samples"]
