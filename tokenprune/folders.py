"""Pictures that lie in a folder, in the order that people expect."""

from __future__ import annotations

import re
from pathlib import Path

from tokenprune.errors import DataError

#: Endings of files that count as pictures; what else lies in a folder is passed over.
PICTURES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts by numbers where names hold them: `frame_2.png` before `frame_10.png`.

    Letters are compared without case; names that are equal but for that, or for leading zeros,
    keep an order of their own.
    """
    parts = re.split(r"([0-9]+)", name.casefold())
    numbers = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return numbers, name


def listed(folder: Path) -> list[Path]:
    """What lies in a folder, hidden entries left out, in natural order.

    Raises:
        DataError: it can't be read.
    """
    try:
        found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise DataError(f"the folder can't be read ({error}).", where=str(folder)) from error
    return sorted(found, key=lambda path: natural(path.name))


def pictures_in(folder: Path) -> list[Path]:
    """The files of a folder that end like pictures, in natural order; none of its subfolders.

    Raises:
        DataError: it can't be read.
    """
    return [path for path in listed(folder) if path.suffix.lower() in PICTURES and path.is_file()]
