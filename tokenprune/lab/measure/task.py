"""What is asked of a model in a comparison: samples, calls and right answers."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor, nn

from tokenprune.errors import DataError
from tokenprune.interface.loading import LoadedClassifier, LoadedMllm
from tokenprune.lab.data.opening import opened_all
from tokenprune.lab.data.question import Question, plain
from tokenprune.lab.greedy import generated, largest
from tokenprune.lab.positions import check_questions


class Task(ABC):
    """Samples of one model, in batches.

    Args:
        model: in eval mode.
        questions: the samples.
        batch_size: samples a batch.

    Raises:
        DataError: there are no samples.

    Attributes:
        kind: of the model: `mllm`, `classifier` or `dual`.
        choices: texts that answers are chosen from, if they are.
    """

    kind: str
    choices: tuple[tuple[str, ...], ...] = ()

    def __init__(self, model: nn.Module, questions: Sequence[Question], batch_size: int) -> None:
        if not questions:
            raise DataError("there is nothing to compare on: no samples.", remedy="Raise --limit.")
        self.model, self.questions, self.batch_size = model, list(questions), batch_size

    @property
    def batches(self) -> list[list[Question]]:
        """The samples, batch by batch."""
        step = self.batch_size
        return [self.questions[at : at + step] for at in range(0, len(self.questions), step)]

    def only(self, numbers: Sequence[int]) -> Self:
        """The same task with some of its samples.

        Args:
            numbers: of the samples, in order.
        """
        one = copy.copy(self)
        one.questions = [self.questions[number] for number in numbers]
        return one

    @abstractmethod
    def inputs(self, batch: Sequence[Question]) -> Any:
        """What `call` takes; not timed."""

    @abstractmethod
    def call(self, inputs: Any) -> Tensor:
        """Run the model: the part that is timed."""

    @abstractmethod
    def read(self, inputs: Any, output: Tensor) -> list[str]:
        """The answers in what `call` returned."""

    def unknown(self) -> list[str]:
        """Words of the questions that the model's tokenizer doesn't know, each once."""
        return []

    def right(self, answer: str, question: Question) -> bool:
        """Whether an answer is right."""
        return plain(answer) == plain(question.matched(answer))


class VqaTask(Task):
    """Greedy one-word answers to questions about pictures."""

    kind = "mllm"

    def __init__(
        self,
        loaded: LoadedMllm,
        questions: Sequence[Question],
        batch_size: int,
        new_tokens: int = 2,
    ) -> None:
        super().__init__(loaded.model, questions, batch_size)
        self._loaded, self._new_tokens = loaded, new_tokens

    def inputs(self, batch: Sequence[Question]) -> dict[str, Any]:
        """Left-padded inputs of `generate`.

        Raises:
            DataError: a picture can't be read, or a prompt is longer than the LLM has positions.
        """
        texts = [question.text for question in batch]
        inputs = self._loaded.prepare(opened_all(batch), texts)
        check_questions(self.model, inputs, texts, self._new_tokens)
        return inputs

    def unknown(self) -> list[str]:
        """Words of the questions that the model's tokenizer doesn't know, each once."""
        words = dict.fromkeys(word for q in self.questions for word in q.text.split())
        return self._loaded.unknown(" ".join(words))

    def call(self, inputs: dict[str, Any]) -> Tensor:
        """Generate greedily: `[B, prompt + new]`.

        Raises:
            TokenpruneError: logits are NaN.
        """
        return generated(self.model, inputs, self._new_tokens)

    def read(self, inputs: dict[str, Any], output: Tensor) -> list[str]:
        """What was generated after the prompt."""
        return self._loaded.decode(output[:, inputs["input_ids"].shape[1] :])


class ClassifyTask(Task):
    """Top-1 class of pictures; the answers are class numbers."""

    kind = "classifier"

    def __init__(
        self, loaded: LoadedClassifier, questions: Sequence[Question], batch_size: int
    ) -> None:
        super().__init__(loaded.model, questions, batch_size)
        self._loaded = loaded

    def inputs(self, batch: Sequence[Question]) -> Tensor:
        """Pixels `[B, 3, H, W]`."""
        return self._loaded.prepare(opened_all(batch))

    def call(self, inputs: Tensor) -> Tensor:
        """Logits `[B, classes]`."""
        logits: Tensor = self.model(inputs)
        return logits

    def read(self, inputs: Tensor, output: Tensor) -> list[str]:
        """The class with the largest logit, the lower number on ties."""
        return [str(number) for number in largest(output.float())]
