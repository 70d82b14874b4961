"""Pictures with captions: a file with one object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenprune.errors import DataError
from tokenprune.lab.data.question import Question

USAGE = 'Write {"image": "a.png", "caption": "..."}; a list of captions may stand there, too.'


def captioned_pictures(path: Path) -> list[Question]:
    """A sample a picture, with all its captions, whether they stand on one line or on several.

    Args:
        path: lines with `image`, relative to the file, `caption` and perhaps `type`.

    Raises:
        DataError: naming file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the captions can't be read ({error}).", where=str(path)) from error
    captions: dict[Path, list[str]] = {}
    kinds: dict[Path, str] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            row = _row(line, f"{path}:{number}")
            picture = _picture(path.parent, row, f"{path}:{number}")
            captions.setdefault(picture, []).extend(_captions(row, f"{path}:{number}"))
            kinds.setdefault(picture, str(row.get("type", "")))
    if not captions:
        raise DataError("the file holds no captions.", where=str(path), remedy=USAGE)
    return [
        Question(picture, first, kind=kinds[picture], image_id=number, others=tuple(rest))
        for number, (picture, (first, *rest)) in enumerate(captions.items())
    ]


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"the line is no JSON ({error}).", where=where, remedy=USAGE) from error
    if not isinstance(row, dict):
        raise DataError("the line is no object.", where=where, remedy=USAGE)
    return row


def _picture(folder: Path, row: dict[str, Any], where: str) -> Path:
    name = row.get("image")
    if not isinstance(name, str):
        raise DataError("the line names no 'image'.", where=where, remedy=USAGE)
    picture = folder / name
    if not picture.is_file():
        raise DataError(f"there is no picture '{picture}'.", where=where)
    return picture


def _captions(row: dict[str, Any], where: str) -> list[str]:
    given = row.get("caption")
    several: list[Any] = given if isinstance(given, list) else [given]
    found = [one for one in several if isinstance(one, str) and one.strip()]
    if not found or len(found) < len(several):
        raise DataError("the line has no 'caption'.", where=where, remedy=USAGE)
    return found
