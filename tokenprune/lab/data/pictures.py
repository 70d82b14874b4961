"""Samples of a comparison: the built-in questions, or labelled pictures of a folder."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tokenprune.errors import DataError
from tokenprune.errors.files import TEXT_BYTES, check_file, is_file, reason
from tokenprune.interface.loading import Frames
from tokenprune.lab.data.question import Question

T = TypeVar("T")

FILE_COLUMNS = ("file", "filename", "image", "path")
LABEL_COLUMNS = ("imagenet_class_index", "class_index", "label", "class", "target")

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
    rows = _rows(labels)
    name, label = (_column(labels, rows, names) for names in (FILE_COLUMNS, LABEL_COLUMNS))
    questions, groups = [], dict[Path, int]()
    for line, row in enumerate(rows, start=2):
        where = f"{labels}:{line}"
        target = _class(row[label], classes, where)
        picture = _file(folder, row[name], where)
        group = groups.setdefault(picture.resolve(), len(groups))
        questions.append(Question(picture, str(target), image_id=group, where=where))
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


def _rows(labels: Path) -> list[dict[str, str]]:
    try:
        check_file(labels, TEXT_BYTES)
        # spreadsheets put a byte-order mark in front, which would be part of the first name
        with labels.open(newline="", encoding="utf-8-sig") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"the labels can't be read ({reason(error)}).", where=str(labels)
        ) from error
    if not rows:
        raise DataError(
            "the file holds no labels.", where=str(labels), remedy="Write a header and rows."
        )
    return rows


def _column(labels: Path, rows: Sequence[dict[str, str]], names: Sequence[str]) -> str:
    for name in names:
        if name in rows[0]:
            return name
    raise DataError(
        f"the header has no column {' or '.join(names)}; it has {', '.join(map(str, rows[0]))}.",
        where=f"{labels}:1",
        remedy="Write the header: file,class_index.",
    )


def _class(text: str | None, classes: int, where: str) -> int:
    try:
        number = int(text or "")
    except ValueError:
        number = -1
    if not 0 <= number < classes:
        raise DataError(
            f"'{text}' is no class; there are {classes}.",
            where=where,
            remedy=f"Write a number from 0 to {classes - 1}.",
        )
    return number


def _file(folder: Path, name: str, where: str) -> Path:
    path = folder / (name or "")
    if not is_file(path):
        raise DataError(
            f"there is no picture '{str(path)[:400]}'.", where=where, remedy="See --images."
        )
    return path
