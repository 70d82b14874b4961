"""What a metric is: a plug, so that plugins can bring metrics of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Answered:
    """One sample with what a model said.

    Attributes:
        question: what was asked; empty for classifiers.
        right: the right answer; of several, the one that equals the given one, or the first.
        answer: the given one.
        answers: all right answers, such as those of ten people; the same one may stand several
            times.
    """

    question: str
    right: str
    answer: str
    answers: tuple[str, ...] = ()


class Metric(Protocol):
    """Scores answers.

    Attributes:
        name: how studies and reports call it; lower-case letters, digits, `_`, `-` and `.`.
    """

    name: str

    def score(self, samples: Sequence[Answered]) -> Sequence[float]:
        """One finite number a sample, in their order; more is better."""
        ...
