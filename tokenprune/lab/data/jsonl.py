"""Questions of the user: a file with a question a line, about pictures or about videos."""

from __future__ import annotations

from pathlib import Path

from tokenprune.errors import DataError
from tokenprune.errors.files import is_folder
from tokenprune.lab.data.question import Question, check_answered
from tokenprune.lab.data.rows import DataRow, read_rows
from tokenprune.lab.data.videos import Clip

#: The file of a folder that holds its questions; the later ones have Hugging Face's name.
FILES = ("questions.jsonl", "questions.csv", "metadata.jsonl", "metadata.csv")

PICTURES = ("images", "image")

#: Where right answers stand; both may hold one or several.
ANSWERS = ("answer", "answers")

USAGE = (
    'Write {"image": "a.png", "question": "...", "answer": "..."}; several right answers are a '
    "list of texts."
)


def read_jsonl(
    path: Path,
    *,
    answers: bool = True,
    frames: int | None = None,
    folder: Path | None = None,
    elsewhere: str = "",
) -> list[Question]:
    """Questions of a file with one a line: what is seen, `question`, `answer`, `type`.

    What is seen is `image` (or a list, `images`), or with `frames` a `video`: a file, or a folder
    of frames. Either may be called `file_name`, as in Hugging Face's folders. Lines with the same
    pictures or video count as one group in intervals. Several right answers are a list, in
    `answer` or `answers`.

    Args:
        path: the file, or a folder that holds one of `FILES`.
        answers: whether every line needs an answer; without, it is left empty.
        frames: how many frames are taken of each video, see `chosen`; None: they are pictures.
        folder: where the pictures or videos lie; None: beside the file.
        elsewhere: what names another such folder, for errors.

    Raises:
        DataError: naming file and line; or all right answers are empty.
        BackendUnavailableError: a video needs PyAV, which isn't installed.
    """
    path = _file(path)
    folder = path.parent if folder is None else folder
    found: list[Question] = []
    groups: dict[str, int] = {}
    for row in read_rows(path, "questions", USAGE):
        question = row.text("question")
        first, *rest = right_answers(row) if answers else ("",)
        image, name = _seen(row, folder, frames, elsewhere)
        found.append(
            Question(
                image=image,
                answer=first,
                text=question,
                kind=row.text("type", ""),
                image_id=groups.setdefault(name, len(groups)),
                others=tuple(rest),
                where=row.where,
            )
        )
    if not found:
        raise DataError("the file holds no questions.", where=str(path))
    if answers:
        check_answered(found, str(path))
    return found


def _file(path: Path) -> Path:
    if not is_folder(path):
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


def right_answers(row: DataRow) -> tuple[str, ...]:
    """The right answers of a line, one or more, see `Row.answers`.

    Raises:
        DataError: there are none, or they stand under both of `ANSWERS`.
    """
    if all(key in row.data for key in ANSWERS):
        raise DataError(
            "there are 'answer' and 'answers', and one of them would be ignored.",
            where=row.where,
            remedy="Leave one of them out.",
        )
    return row.answers(next((key for key in ANSWERS if key in row.data), ANSWERS[0]))


def _seen(
    row: DataRow, folder: Path, frames: int | None, elsewhere: str
) -> tuple[Path | list[Path] | Clip, str]:
    """What a line asks about, and what is the same for lines about the same."""
    if frames is not None:
        path = _video(row, folder, elsewhere)
        return Clip.of(path, frames, row.where), str(path)
    pictures = [row.file(folder, name, "picture", elsewhere) for name in _names(row)]
    return (pictures if len(pictures) > 1 else pictures[0]), "|".join(map(str, pictures))


def _video(row: DataRow, folder: Path, elsewhere: str) -> Path:
    if any(key in row.data for key in PICTURES):
        raise DataError(
            "the line names a picture, and frames of videos are asked for.",
            where=row.where,
            remedy="Write 'video' instead, or put lines about pictures into another file, whose "
            "task has no 'frames'.",
        )
    name = row.data.get("video", row.data.get("file_name"))
    if not isinstance(name, str) or not name:
        raise DataError(
            "the line names no video.",
            where=row.where,
            remedy='Write {"video": "a.mp4", "question": "...", "answer": "..."}.',
        )
    path = folder / name
    return path if is_folder(path) else row.file(folder, name, "video", elsewhere)


def _names(row: DataRow) -> list[str]:
    if "video" in row.data:
        raise DataError(
            "the line names a video, and nothing says how many of its frames are taken.",
            where=row.where,
            remedy="Add frames: 8 to the task of a study; to compare or bench, --frames 8.",
        )
    given = row.data.get("images", row.data.get("image", row.data.get("file_name")))
    names = given if isinstance(given, list) else [given]
    if not names or not all(isinstance(name, str) for name in names):
        raise DataError(
            "the line names no picture.",
            where=row.where,
            remedy="Write 'image', or 'images': [...].",
        )
    return names
