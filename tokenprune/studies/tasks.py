"""The samples of a study's tasks, and a digest that says which they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

from tokenprune.compare.pictures import (
    heldout_clip_questions,
    heldout_questions,
    open_picture,
)
from tokenprune.compare.settings import CLIP_QUESTIONS, QUESTIONS
from tokenprune.compare.task import Question
from tokenprune.errors import DataError
from tokenprune.studies.hub import dataset_questions
from tokenprune.studies.model import TaskEntry


def opened(image: Any) -> Any:
    """A picture, read if it is a file or encoded; several of them as a list.

    Raises:
        DataError: a file is missing or no picture.
    """
    if isinstance(image, list | tuple):
        return [opened(one) for one in image]
    if isinstance(image, bytes):
        return open_picture(BytesIO(image))
    return open_picture(image) if isinstance(image, Path) else image


def questions(entry: TaskEntry) -> list[Question]:
    """The questions of a task for multimodal LLMs.

    Raises:
        DataError: a file is missing or a line of it is wrong.
    """
    if entry.kind == "jsonl":
        assert entry.path is not None
        return read_jsonl(entry.path)[: entry.limit]
    if entry.kind == "dataset":
        return dataset_questions(entry)
    return list(_builtin(entry.kind, entry.limit))


@lru_cache(maxsize=2)
def _builtin(kind: str, limit: int | None) -> tuple[Question, ...]:
    """Drawn once a process: rendering them takes longer than a small cell."""
    if kind == "video":
        return tuple(heldout_clip_questions(limit or CLIP_QUESTIONS))
    return tuple(heldout_questions(limit or QUESTIONS))


def read_jsonl(path: Path, *, answers: bool = True) -> list[Question]:
    """Questions of a file with one object a line: `image` (or `images`), `question`, `answer`.

    Paths are relative to the file. Lines with one picture count as one group in intervals.

    Args:
        path: the file.
        answers: whether every line needs an answer; without, it is left empty.

    Raises:
        DataError: naming file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the questions can't be read ({error}).", where=str(path)) from error
    found: list[Question] = []
    groups: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        row = _row(line, where, ("question", "answer") if answers else ("question",))
        pictures = [_picture(path.parent, name, where) for name in _names(row, where)]
        group = groups.setdefault("|".join(map(str, pictures)), len(groups))
        image: Any = pictures if len(pictures) > 1 else pictures[0]
        found.append(
            Question(
                image,
                str(row.get("answer", "")),
                str(row["question"]),
                str(row.get("type", "")),
                group,
            )
        )
    if not found:
        raise DataError("the file holds no questions.", where=str(path))
    return found


def revision(samples: Sequence[Question], choices: Sequence[Sequence[str]] = ()) -> str:
    """SHA-256 of samples and their pictures, and of the texts that answers are chosen from."""
    total = hashlib.sha256(json.dumps(choices).encode() if choices else b"")
    for sample in samples:
        about = [sample.text, sample.answer, sample.kind, *sample.others]
        total.update(json.dumps(about).encode())
        several = isinstance(sample.image, list | tuple)
        for image in sample.image if several else (sample.image,):
            total.update(_bytes(image))
    return total.hexdigest()


def _bytes(image: Any) -> bytes:
    if isinstance(image, bytes):
        return image
    return bytes(image.read_bytes() if isinstance(image, Path) else image.tobytes())


def _row(line: str, where: str, needed: Sequence[str]) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"the line is no JSON ({error}).", where=where) from error
    missing = [key for key in needed if not isinstance(row, dict) or key not in row]
    if missing:
        raise DataError(
            f"the line has no '{missing[0]}'.",
            where=where,
            remedy='Write {"image": "a.png", "question": "...", "answer": "..."}.',
        )
    return dict(row)


def _names(row: dict[str, Any], where: str) -> list[str]:
    names = row.get("images", row.get("image"))
    if isinstance(names, str):
        return [names]
    if not isinstance(names, list) or not names:
        raise DataError(
            "the line names no picture.", where=where, remedy="Write 'image', or 'images': [...]."
        )
    return [str(name) for name in names]


def _picture(folder: Path, name: str, where: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise DataError(f"there is no picture '{path}'.", where=where)
    return path
