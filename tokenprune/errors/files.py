"""Files that users name: regular ones only, and none that is read without end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tokenprune.errors.words import first_line

#: Most bytes of a file of text (plans, studies, rows) and of a picture (ours).
TEXT_BYTES = 256 * 2**20
PICTURE_BYTES = 512 * 2**20


class NotReadableError(OSError):
    """A name is no regular file, or the file is longer than what is read."""


def check_file(path: Path, most: int | None = None) -> None:
    """Refuse what can't be read to its end: folders, pipes, devices, files that are too long.

    Opening a pipe waits for a writer, and a device such as `/dev/zero` never ends, so this looks
    before anything is opened.

    Args:
        path: what was named; links are followed.
        most: bytes that are read; None for any number.

    Raises:
        OSError: there is nothing of that name, or it is no regular file of at most so many bytes.
    """
    try:
        found = os.stat(path)
    except ValueError as error:  # a name with a NUL
        raise NotReadableError(f"no file can have this name: {error}") from error
    if stat.S_ISDIR(found.st_mode):
        raise NotReadableError("it is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise NotReadableError("it is no regular file")
    if most is not None and found.st_size > most:
        raise NotReadableError(f"it has {found.st_size:,} bytes, at most {most:,} are read")


def reason(error: Exception, what: str = "file") -> str:
    """Why a file can't be read, in words; numbers of the system and the file's name are left out.

    Args:
        error: what reading it raised.
        what: what there isn't, of a missing one.
    """
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"there is no such {what}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    return first_line(error)


def is_file(path: Path) -> bool:
    """Whether there is a regular file of that name; False for names that no file can have."""
    try:
        check_file(path)
    except OSError:
        return False
    return True


def is_folder(path: Path) -> bool:
    """Whether there is a folder of that name; False for names that none can have."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def read_text(path: Path, most: int = TEXT_BYTES) -> str:
    """The text of a regular file in UTF-8, a byte-order mark in front of it left out.

    Args:
        path: the file.
        most: bytes that are read.

    Raises:
        OSError: see `check_file`; or it can't be read.
        UnicodeDecodeError: it isn't UTF-8.
    """
    check_file(path, most)
    return path.read_text(encoding="utf-8-sig")
