"""Where training questions come from: an endless procedural stream, or the user's own file."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from tokenprune.errors import DataError
from tokenprune.errors.files import reason
from tokenprune.lab.data import opening
from tokenprune.lab.data.checking import check_samples
from tokenprune.lab.data.jsonl import right_answers
from tokenprune.lab.data.question import Question
from tokenprune.lab.data.rows import DataRow, read_rows
from tokenprune.reference import Textures, ask_each, render, sample_scene
from tokenprune.reference.heldout import HELDOUT_SEED

REFERENCE = "reference"
STREAM = 7
"""Second number of the stream's seeds; the held-out set has 1, other training data 2."""

KEYS = ("image", "question")

FORM = 'A line is {"image": FILE, "question": TEXT, "answer": TEXT}.'


class Stream(Protocol):
    """Training questions by step, the same ones whenever they are asked for.

    Attributes:
        name: for the record.
        digest: SHA-256 of what the questions are drawn from; empty where name and seed say it.
    """

    name: str
    digest: str

    def draw(self, step: int, pictures: int, shared: int) -> list[Question]:
        """`pictures * shared` questions, those about one picture one after the other."""
        ...


class ReferenceStream:
    """Fresh scenes of the bundled set; no picture and no background of the held-out set's.

    Args:
        seed: any but the held-out set's.

    Raises:
        DataError: it is the held-out set's.
    """

    name = REFERENCE
    digest = ""

    def __init__(self, seed: int) -> None:
        if seed == HELDOUT_SEED:
            raise DataError(
                f"the seed {seed} is that of the held-out questions.",
                where="--seed",
                remedy="Train with another one.",
            )
        self._seed, self._textures = seed, Textures(seed)

    def draw(self, step: int, pictures: int, shared: int) -> list[Question]:
        """See `Stream`."""
        return [
            question
            for number in range(pictures)
            for question in self._picture(step, number, shared)
        ]

    def _picture(self, step: int, number: int, shared: int) -> list[Question]:
        rng = np.random.default_rng([self._seed, STREAM, step, number])
        scene = sample_scene(rng)
        asked: list[Any] = []
        while len(asked) < shared:
            more = ask_each(scene, rng)
            asked += [more[place] for place in rng.permutation(len(more))]
        picture = Image.fromarray(render(scene, rng, self._textures).image)
        return [
            Question(image=picture, text=q.text, answer=q.answer, kind=q.kind)
            for q in asked[:shared]
        ]


class FileStream:
    """Questions of a JSON-lines file, in a new order every epoch.

    Every line is a mapping `{"image": FILE, "question": TEXT, "answer": TEXT}`; files are relative
    to the JSON-lines file.

    Of several right answers, the one that most people gave is learned, of equally many the first
    (ours).

    Args:
        path: the file.
        seed: of the orders.
        check: pictures that are opened at once, see `check_samples`.

    Raises:
        DataError: naming file and line.
    """

    def __init__(self, path: Path, seed: int, check: int | None = None) -> None:
        self.name = path.name
        self.questions = read_questions(path)
        check_samples(self.questions, check)
        self.digest = _digest(self.questions)
        self._path, self._seed = path, seed

    def draw(self, step: int, pictures: int, shared: int) -> list[Question]:
        """See `Stream`; every question brings its own picture."""
        size, total = pictures * shared, len(self.questions)
        places = range(step * size, (step + 1) * size)
        orders = {epoch: self._order(epoch) for epoch in {place // total for place in places}}
        chosen = [int(orders[place // total][place % total]) for place in places]
        return [opened(self.questions[number]) for number in chosen]

    def _order(self, epoch: int) -> Any:
        return np.random.default_rng([self._seed, STREAM, epoch]).permutation(len(self.questions))


def read_questions(path: Path) -> list[Question]:
    """The questions of a JSON-lines file, pictures as paths.

    Raises:
        DataError: the file can't be read or a line is wrong; names file and line.
    """
    questions = [_question(path, row) for row in read_rows(path, "file", FORM)]
    if not questions:
        raise DataError("the file holds no questions.", where=str(path), remedy=FORM)
    return questions


def _question(path: Path, row: DataRow) -> Question:
    right = right_answers(row)
    (most, _), *_ = Counter(right).most_common(1)
    given = {**{key: row.text(key) for key in KEYS}, "answer": most}
    for key, text in given.items():
        if not text.strip():
            raise DataError(f"'{key}' is empty.", where=row.where, remedy=FORM)
    picture = row.file(path.parent, given["image"], "picture")
    others = tuple(one for one in dict.fromkeys(right) if one != most)
    return Question(picture, most, given["question"], others=others, where=row.where)


def _digest(questions: Sequence[Question]) -> str:
    """SHA-256 of texts, answers and the bytes of all pictures, each file read once."""
    files = cache(lambda path: hashlib.sha256(path.read_bytes()).hexdigest())
    total = hashlib.sha256()
    for question in questions:
        try:
            about = [question.text, question.answer, *question.others, files(question.image)]
        except OSError as error:
            raise DataError(
                f"the file can't be read ({reason(error)}).", where=question.where
            ) from error
        total.update(json.dumps(about).encode())
    return total.hexdigest()


def opened(question: Question) -> Question:
    """The question with its picture read.

    Raises:
        DataError: the picture is damaged.
    """
    return replace(question, image=opening.opened(question.image))
