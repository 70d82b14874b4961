"""Held-out questions as tensors, and how many of them are answered right."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from tokenprune.reference.questions import SceneQuestion

SceneT = TypeVar("SceneT")


class Sample(Protocol):
    """A held-out question."""

    @property
    def question(self) -> str:
        """What is asked."""

    @property
    def answer(self) -> str:
        """One word."""

    @property
    def type(self) -> str:
        """The type of the question."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """All questions about some pictures or clips.

    Attributes:
        words: `[B, Q, L]` question words, padded.
        answer_at: `[B, Q]` place of the question mark.
        answer: `[B, Q]` word id, -1 where there are fewer questions.
        type: `[B, Q]` index of the type.
    """

    words: Tensor
    answer_at: Tensor
    answer: Tensor
    type: Tensor


@dataclass(frozen=True)
class Asking:
    """How the questions of a model become tensors.

    Attributes:
        types: the types of questions.
        word_id: ids by word.
        length: words of the longest question with its answer and `<eos>`.
        pad: id behind the answer.
    """

    types: Sequence[str]
    word_id: Mapping[str, int]
    length: int
    pad: int

    def encode(self, question: str, answer: str) -> tuple[list[int], int]:
        """Padded word ids of question and answer, and where the question mark stands."""
        ids = [self.word_id[word] for word in question.split()]
        full = [*ids, self.word_id[answer]]
        return full + [self.pad] * (self.length - len(full)), len(ids) - 1

    def fields(self, group: Sequence[Sequence[Sample]]) -> dict[str, Tensor]:
        """The fields of `Asked`, from the questions about each picture or clip."""
        shape = (len(group), len(self.types))
        words = torch.full((*shape, self.length), self.pad)
        answer_at, kind = torch.zeros(shape).long(), torch.zeros(shape).long()
        answer = torch.full(shape, -1)
        for row, samples in enumerate(group):
            for column, sample in enumerate(samples):
                ids, at = self.encode(sample.question, sample.answer)
                words[row, column], answer_at[row, column] = torch.tensor(ids), at
                answer[row, column] = self.word_id[sample.answer]
                kind[row, column] = self.types.index(sample.type)
        return {"words": words, "answer_at": answer_at, "answer": answer, "type": kind}

    def fill(
        self, arrays: Mapping[str, NDArray[Any]], row: int, questions: Sequence[SceneQuestion]
    ) -> None:
        """Write the questions about one picture into a row of the fields of `Asked`."""
        for column, question in enumerate(questions):
            arrays["words"][row, column], arrays["answer_at"][row, column] = self.encode(
                question.text, question.answer
            )
            arrays["answer"][row, column] = self.word_id[question.answer]
            arrays["type"][row, column] = self.types.index(question.kind)


Ask = Callable[[SceneT, np.random.Generator], SceneQuestion | None]


def draw_questions(
    scene: SceneT,
    rng: np.random.Generator,
    ask: Sequence[Ask[SceneT]],
    weights: Sequence[float],
    count: int,
) -> list[SceneQuestion]:
    """So many questions about one scene, types by weight; a scene always allows counting.

    Args:
        scene: what is asked about.
        rng: draws types and questions.
        ask: by type, a question or None where the scene allows none.
        weights: how often each type comes.
        count: of the questions.
    """
    share = np.asarray(weights) / sum(weights)
    drawn: list[SceneQuestion] = []
    while len(drawn) < count:
        for kind in rng.choice(len(ask), size=count, p=share):
            question = ask[int(kind)](scene, rng)
            if question is not None:
                drawn.append(question)
    return drawn[:count]


class Tally:
    """Right answers and questions by type.

    Args:
        types: their names.
    """

    def __init__(self, types: Sequence[str]) -> None:
        self.types = types
        self.right, self.asked = torch.zeros(len(types)), torch.zeros(len(types))

    def add(self, right: Tensor, page: Asked) -> None:
        """Count one page by which questions `[B, Q]` are answered right."""
        for number in range(len(self.types)):
            there = (page.type == number) & (page.answer >= 0)
            self.right[number] += float(right[there].sum())
            self.asked[number] += float(there.sum())

    def questions(self) -> dict[str, int]:
        """How many questions of each type."""
        return {name: int(n) for name, n in zip(self.types, self.asked.tolist(), strict=True)}

    def summary(self) -> dict[str, float]:
        """Accuracy in percent, over all questions and by type."""
        by_type = 100.0 * self.right / self.asked.clamp(min=1)
        values = {name: float(by_type[number]) for number, name in enumerate(self.types)}
        overall = 100.0 * float(self.right.sum() / self.asked.sum())
        return {name: round(value, 2) for name, value in {"all": overall, **values}.items()}


def load_weights(folder: str) -> dict[str, Tensor]:
    """Weights of an exported model, computed with in fp32."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def percents(hits: Mapping[str, Sequence[bool]]) -> dict[str, float]:
    """Shares of hits in percent."""
    return {name: round(100.0 * sum(h) / max(1, len(h)), 2) for name, h in hits.items()}


def standard_error(percent: float, questions: int) -> float:
    """Naive standard error of an accuracy, in points."""
    share = percent / 100.0
    return round(100.0 * math.sqrt(share * (1.0 - share) / questions), 2)
