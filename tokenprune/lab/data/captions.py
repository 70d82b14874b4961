"""Pictures with captions: a file with one object a line."""

from __future__ import annotations

from pathlib import Path

from tokenprune.errors import DataError
from tokenprune.lab.data.question import Question
from tokenprune.lab.data.rows import DataRow, read_rows

USAGE = 'Write {"image": "a.png", "caption": "..."}; a list of captions may stand there, too.'


def captioned_pictures(path: Path) -> list[Question]:
    """A sample a picture, with all its captions, whether they stand on one line or on several.

    Args:
        path: lines with `image`, relative to the file, `caption` and perhaps `type`.

    Raises:
        DataError: naming file and line.
    """
    captions: dict[Path, list[str]] = {}
    kinds: dict[Path, str] = {}
    places: dict[Path, str] = {}
    for row in read_rows(path, "captions", USAGE):
        picture = row.file(path.parent, row.text("image"), "picture")
        captions.setdefault(picture, []).extend(_captions(row))
        kinds.setdefault(picture, row.text("type", ""))
        places.setdefault(picture, row.where)
    if not captions:
        raise DataError("the file holds no captions.", where=str(path), remedy=USAGE)
    return [
        Question(
            image=picture,
            answer=first,
            kind=kinds[picture],
            image_id=number,
            others=tuple(rest),
            where=places[picture],
        )
        for number, (picture, (first, *rest)) in enumerate(captions.items())
    ]


def _captions(row: DataRow) -> tuple[str, ...]:
    found = row.answers("caption")
    if not all(map(str.strip, found)):
        raise DataError("a 'caption' is empty.", where=row.where, remedy=USAGE)
    return found
