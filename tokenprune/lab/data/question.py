"""One sample of a task, and the columns that samples are read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from unicodedata import normalize

from pydantic import BaseModel, ConfigDict

from tokenprune.errors import DataError

#: What may stand behind an answer: marks, and spaces in front of these.
CLOSING = ".!, \t\n"


@dataclass(frozen=True)
class Question:
    """One sample.

    Attributes:
        image: the picture, the path of its file, or several of these; a clip, or its `Frames`.
        text: what is asked; empty for classifiers.
        answer: what is right.
        kind: group for separate accuracies.
        image_id: samples of one image are resampled together.
        others: further right answers.
        where: file and line that it stands in, for errors.
    """

    image: Any
    answer: str
    text: str = ""
    kind: str = ""
    image_id: int = 0
    others: tuple[str, ...] = ()
    where: str = field(default="", compare=False)

    def matched(self, answer: str) -> str:
        """The right answer that equals the given one, else the first right one."""
        right = (self.answer, *self.others)
        return next((one for one in right if plain(one) == plain(answer)), self.answer)


def check_answered(samples: Sequence[Question], where: str) -> None:
    """Refuse samples whose right answers are held back: no answer but an empty one were right.

    A single empty answer may be meant, as where the model's own answers are the right ones.

    Args:
        samples: of one file or split.
        where: what errors name.

    Raises:
        DataError: all right answers are empty.
    """
    if samples and not any(
        one.strip() for sample in samples for one in (sample.answer, *sample.others)
    ):
        raise DataError(
            "all right answers are empty.",
            where=where,
            remedy="Take a file or a split whose answers aren't held back.",
        )


def plain(answer: str) -> str:
    """An answer without case, outer spaces and closing marks, unless it is nothing but marks.

    Letters with accents are equal however their bytes are written (NFC, Unicode annex 15).
    """
    text = normalize("NFC", answer).strip().lower()
    return text.rstrip(CLOSING) or text


class Frozen(BaseModel):
    """A part of a study file: unknown keys are errors, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Columns(Frozen):
    """Columns of a dataset."""

    image: str = "image"
    """A picture, or a list of them; in tasks with `frames` a video, or a list of its frames."""
    question: str | None = "question"
    """What is asked; null for classifiers and dual encoders."""
    answer: str = "answer"
    """The right answer; for classifiers and dual encoders the number of the class."""
    type: str | None = None
    """Groups for separate accuracies."""
