"""Questions of the user: a file with one object a line, about pictures or about videos."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenprune.errors import DataError
from tokenprune.lab.data.question import Question
from tokenprune.lab.data.videos import Clip

#: The file of a folder that holds its questions; the second is Hugging Face's name.
FILES = ("questions.jsonl", "metadata.jsonl")

PICTURES = ("images", "image")


def read_jsonl(path: Path, *, answers: bool = True, frames: int | None = None) -> list[Question]:
    """Questions of a file with one object a line: what is seen, `question`, `answer`, `type`.

    What is seen is `image` (or a list, `images`), or with `frames` a `video`: a file, or a folder
    of frames. Either may be called `file_name`, as in Hugging Face's folders. Paths are relative
    to the file. Lines with the same pictures or video count as one group in intervals.

    Args:
        path: the file, or a folder that holds one of `FILES`.
        answers: whether every line needs an answer; without, it is left empty.
        frames: how many frames are taken of each video, see `chosen`; None: they are pictures.

    Raises:
        DataError: naming file and line.
        BackendUnavailableError: a video needs PyAV, which isn't installed.
    """
    path = _file(path)
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
        image, name = _seen(row, path.parent, frames, where)
        found.append(
            Question(
                image,
                str(row.get("answer", "")),
                str(row["question"]),
                str(row.get("type", "")),
                groups.setdefault(name, len(groups)),
            )
        )
    if not found:
        raise DataError("the file holds no questions.", where=str(path))
    return found


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in FILES:
        if (path / name).is_file():
            return path / name
    raise DataError(
        "the folder holds no questions.",
        where=str(path),
        remedy=f"Put {FILES[0]} into it: a line is "
        '{"image": "a.png", "question": "...", "answer": "..."}.',
    )


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


def _seen(
    row: dict[str, Any], folder: Path, frames: int | None, where: str
) -> tuple[Path | list[Path] | Clip, str]:
    """What a line asks about, and what is the same for lines about the same."""
    if frames is not None:
        path = _video(row, folder, where)
        return Clip.of(path, frames, where), str(path)
    pictures = [_picture(folder, name, where) for name in _names(row, where)]
    return (pictures if len(pictures) > 1 else pictures[0]), "|".join(map(str, pictures))


def _video(row: dict[str, Any], folder: Path, where: str) -> Path:
    if any(key in row for key in PICTURES):
        raise DataError(
            "the line names a picture, and frames of videos are asked for.",
            where=where,
            remedy="Write 'video' instead, or put lines about pictures into another file, whose "
            "task has no 'frames'.",
        )
    name = row.get("video", row.get("file_name"))
    if not isinstance(name, str) or not name:
        raise DataError(
            "the line names no video.",
            where=where,
            remedy='Write {"video": "a.mp4", "question": "...", "answer": "..."}.',
        )
    return folder / name


def _names(row: dict[str, Any], where: str) -> list[str]:
    if "video" in row:
        raise DataError(
            "the line names a video, and nothing says how many of its frames are taken.",
            where=where,
            remedy="Add frames: 8 to the task; to a benchmark, --frames 8.",
        )
    names = row.get("images", row.get("image", row.get("file_name")))
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
