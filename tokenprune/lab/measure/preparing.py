"""The batches of a task, made ready for the model; a sample that can't be costs itself alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from tokenprune.errors import DataError, DependencyError, TokenpruneError
from tokenprune.lab.data.question import Question
from tokenprune.lab.measure.task import Task

#: More samples than this share can't be lost without the measurement (ours).
MOST_LOST = 0.25


@dataclass(frozen=True)
class Ready:
    """A batch that the model can be called with.

    Attributes:
        numbers: of its samples, among those of the task.
        inputs: what the task's `call` takes.
    """

    numbers: list[int]
    inputs: Any


class Preparing:
    """Goes through the batches of a task.

    Reading, decoding and tokenizing depend on the sample and not on a plan, so what fails there is
    left out of every row alike, and rows stay comparable.

    Args:
        task: samples and model.

    Attributes:
        lost: by number of the sample, why it was left out.
        taken: batches of the task that were gone through, those without any sample left included.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self.lost: dict[int, str] = {}
        self.taken = 0

    def batches(self) -> Iterator[Ready]:
        """Every batch behind the `taken` ones, without the samples that can't be prepared.

        Raises:
            DataError: more than `MOST_LOST` of the samples can't.
            TokenpruneError: a batch can't whose samples can, each by itself.
        """
        batches = self._task.batches
        start = sum(map(len, batches[: self.taken]))
        for batch in batches[self.taken :]:
            ready = self._ready(batch, start)
            start += len(batch)
            self.taken += 1
            self._check()
            if ready is not None:
                yield ready

    def _ready(self, batch: list[Question], start: int) -> Ready | None:
        numbers = [*range(start, start + len(batch))]
        try:
            return Ready(numbers, self._task.inputs(batch))
        except (MemoryError, torch.OutOfMemoryError, DependencyError):
            raise
        except Exception:
            before = len(self.lost)
            kept = [number for number in numbers if self._stands(number)]
            if len(self.lost) == before:  # it is the batch, and no sample of it
                raise
        questions = [self._task.questions[number] for number in kept]
        return Ready(kept, self._task.inputs(questions)) if kept else None

    def _stands(self, number: int) -> bool:
        """Whether a sample can be prepared by itself; if not, it is written down."""
        question = self._task.questions[number]
        try:
            self._task.inputs([question])
        except (MemoryError, torch.OutOfMemoryError, DependencyError):
            raise
        except Exception as error:
            self.lost[number] = _reason(question, number, error)
            return False
        return True

    def _check(self) -> None:
        total = len(self._task.questions)
        if len(self.lost) > MOST_LOST * total:
            first = next(iter(self.lost.values()))
            raise DataError(
                f"{len(self.lost)} of {total} samples can't be asked, and more than "
                f"{MOST_LOST:.0%} may not be lost. The first: {first}"
            )


def first_ready(task: Task) -> Ready:
    """The first batch of which anything can be prepared.

    Raises:
        TokenpruneError: see `Preparing.batches`.
    """
    return next(Preparing(task).batches())


def _reason(question: Question, number: int, error: Exception) -> str:
    place = question.where or f"sample {number + 1}"
    if not isinstance(error, TokenpruneError):
        return f"{place}: {type(error).__name__}: {error}"
    parts = dict.fromkeys(filter(None, (place, error.where, error.message)))
    return ": ".join(parts)
