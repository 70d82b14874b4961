"""Samples of a comparison: the built-in questions, or labelled pictures of a folder."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tokenprune.errors import DataError
from tokenprune.interface.loading import Frames
from tokenprune.lab.data.question import Question
from tokenprune.lab.data.rows import DataRow, read_table

T = TypeVar("T")

FILE_COLUMNS = ("file", "filename", "image", "path")
LABEL_COLUMNS = ("imagenet_class_index", "class_index", "label", "class", "target")

USAGE = "Write a header and rows: file,class_index."

#: Seed of the pictures that a probe is fitted on; none of them is asked about.
PROBE_SEED = 31_337

#: Seed of the drawn samples and of the split into halves; no option, so that they stay the same.
SPLIT_SEED = 2024


def heldout_questions(limit: int | None) -> list[Question]:
    """The reference model's held-out set, or `limit` questions about as many images as can be.

    Questions of one image are correlated, so one question is drawn from each image before any
    image gives a second one. The draw is fixed.
    """
    from tokenprune.reference.heldout import HELDOUT_IMAGES, iter_heldout

    return _drawn(iter_heldout, HELDOUT_IMAGES, limit)


def heldout_detail_questions(limit: int | None) -> list[Question]:
    """The same of the detail model."""
    from tokenprune.reference.detail_heldout import HELDOUT_DETAILS, iter_heldout_details

    return _drawn(iter_heldout_details, HELDOUT_DETAILS, limit)


def heldout_clip_questions(limit: int | None) -> list[Question]:
    """The same about the held-out clips; the image of a question is a clip's frames."""
    from tokenprune.reference.clip_heldout import HELDOUT_CLIPS, iter_heldout_clips

    return _drawn(iter_heldout_clips, HELDOUT_CLIPS, limit)


def probe_questions(task: str, limit: int) -> list[Question]:
    """One question about each of `limit` fresh pictures or clips, to fit a probe on.

    Args:
        task: `detail`, `image` or `video`.
        limit: how many pictures or clips.
    """
    from tokenprune.reference.clip_heldout import iter_heldout_clips
    from tokenprune.reference.detail_heldout import iter_heldout_details
    from tokenprune.reference.heldout import iter_heldout

    own = {"detail": iter_heldout_details, "video": iter_heldout_clips}
    return _drawn(own.get(task, iter_heldout), limit, limit, PROBE_SEED)


def _drawn(
    samples: Callable[..., Iterable[Any]], most: int, limit: int | None, *seed: int
) -> list[Question]:
    """Questions about as many pictures or clips as can be; `samples` makes those of so many."""
    found = samples(most if limit is None else min(limit, most), *seed)
    return _one_of_each(map(_question, found), limit)


def _question(sample: Any) -> Question:
    image = Frames(sample.frames) if hasattr(sample, "frames") else sample.image
    return Question(image, sample.answer, sample.question, sample.type, sample.image_id)


def _one_of_each(questions: Iterable[Question], limit: int | None) -> list[Question]:
    about: dict[int, list[Question]] = {}
    for question in questions:
        about.setdefault(question.image_id, []).append(question)
    ranked = []
    for image, several in about.items():
        random.Random(SPLIT_SEED + image).shuffle(several)
        ranked += [(rank, image, question) for rank, question in enumerate(several)]
    ranked.sort(key=lambda entry: entry[:2])
    return [question for _, _, question in ranked[:limit]]


def spread(items: Sequence[T], limit: int | None) -> list[T]:
    """`limit` items at equal distances, or all of them."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[(2 * i + 1) * len(items) // (2 * limit)] for i in range(limit)]


def labelled_pictures(
    folder: Path, labels: Path, *, classes: int, split: str = "all", limit: int | None = None
) -> list[Question]:
    """Pictures of a folder with class numbers from a CSV file with a header.

    Rows with the same picture count as one group in intervals.

    Args:
        folder: where the files are.
        labels: CSV with a column of file names and one of class numbers.
        classes: number of classes of the model, or of the task where the model has no such.
        split: `all`, or the `first` or `second` half of the pictures, drawn once with a fixed
            seed: choose on one and report on the other.
        limit: at most so many, spread evenly.

    Raises:
        DataError: the CSV can't be read, or names a missing file or an impossible class.
    """
    rows = [*read_table(labels, "labels", USAGE)]
    if not rows:
        raise DataError("the file holds no labels.", where=str(labels), remedy=USAGE)
    name, label = (_column(labels, rows, names) for names in (FILE_COLUMNS, LABEL_COLUMNS))
    questions, groups = [], dict[Path, int]()
    for row in rows:
        target = _class(row.text(label, ""), classes, row.where)
        picture = row.file(folder, row.text(name, ""), "picture", "--images")
        group = groups.setdefault(picture.resolve(), len(groups))
        questions.append(Question(picture, str(target), image_id=group, where=row.where))
    chosen = set(halve([*groups.values()], split))
    return spread([one for one in questions if one.image_id in chosen], limit)


def halve(items: Sequence[T], split: str) -> list[T]:
    """All items, or one of two fixed random halves, in the given order.

    Raises:
        DataError: there is no such split.
    """
    if split == "all":
        return list(items)
    if split not in ("first", "second"):
        raise DataError(
            f"there is no split '{split}'.", where="--split", remedy="Use first, second or all."
        )
    order = list(range(len(items)))
    random.Random(SPLIT_SEED).shuffle(order)
    half = (len(items) + 1) // 2
    chosen = order[:half] if split == "first" else order[half:]
    return [items[index] for index in sorted(chosen)]


def _column(labels: Path, rows: Sequence[DataRow], names: Sequence[str]) -> str:
    for name in names:
        if name in rows[0].columns:
            return name
    raise DataError(
        f"the header has no column {' or '.join(names)}; it has {', '.join(rows[0].columns)}.",
        where=f"{labels}:1",
        remedy=USAGE,
    )


def _class(text: str, classes: int, where: str) -> int:
    # of int's other forms, 1_0 is 10
    number = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= number < classes:
        raise DataError(
            f"'{text}' is no class; there are {classes}.",
            where=where,
            remedy=f"Write a number from 0 to {classes - 1}.",
        )
    return number
