"""Zero-shot answers of a dual encoder, and which task the samples are for each kind of model.

A dual encoder names the candidate whose text is nearest to the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from tokenprune.interface.loading import LoadedClassifier, LoadedDual, LoadedModel
from tokenprune.lab.data.candidates import Candidates, embedded
from tokenprune.lab.data.opening import opened_all
from tokenprune.lab.data.question import Question
from tokenprune.lab.greedy import largest
from tokenprune.lab.measure.task import ClassifyTask, Task, VqaTask


class ZeroShotTask(Task):
    """Pictures for which the nearest of many texts is named.

    The time of the text tower isn't measured: no plan changes it, and its embeddings are computed
    once.

    Args:
        loaded: the model.
        questions: the samples.
        batch_size: samples a batch.
        candidates: possible answers.
    """

    kind = "dual"

    def __init__(
        self,
        loaded: LoadedDual,
        questions: Sequence[Question],
        batch_size: int,
        candidates: Candidates,
    ) -> None:
        super().__init__(loaded.model, questions, batch_size)
        self._loaded, self._candidates = loaded, candidates
        self.choices = candidates.texts

    @cached_property
    def _vectors(self) -> Tensor:
        return embedded(self._loaded, self._candidates)

    def inputs(self, batch: Sequence[Question]) -> dict[str, Any]:
        """What the vision tower takes."""
        return self._loaded.prepare(opened_all(batch))

    def call(self, inputs: dict[str, Any]) -> Tensor:
        """Unit-length embeddings `[B, D]`."""
        return self._loaded.embed(self.model, inputs)

    def read(self, inputs: dict[str, Any], output: Tensor) -> list[str]:
        """The candidate with the largest cosine similarity, the lower number on ties."""
        # in half precision many candidates have one similarity, and the first of them would win
        similarity = output.float() @ self._vectors.float().T
        return [self._candidates.answers[number] for number in largest(similarity)]


def task_of(
    loaded: LoadedModel,
    questions: Sequence[Question],
    batch_size: int,
    new_tokens: int,
    candidates: Candidates | None = None,
) -> Task:
    """Samples as the task that they are for a model.

    Args:
        loaded: the model.
        questions: the samples, which fit it.
        batch_size: samples a batch.
        new_tokens: of an answer, for a multimodal LLM.
        candidates: answers to choose from, for a dual encoder.
    """
    if isinstance(loaded, LoadedDual):
        assert candidates is not None
        return ZeroShotTask(loaded, questions, batch_size, candidates)
    if isinstance(loaded, LoadedClassifier):
        return ClassifyTask(loaded, questions, batch_size)
    return VqaTask(loaded, questions, batch_size, new_tokens)
