"""Result files: written as a whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from itertools import chain, count
from pathlib import Path

from tokenprune.errors import DataError

#: What a full disk says: no blocks or no inodes, or a quota.
FULL = (errno.ENOSPC, errno.EDQUOT)

#: What file systems without locks say.
UNLOCKED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def write_text(path: Path, text: str) -> None:
    """Write a file atomically.

    Raises:
        DataError: it can't be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            # mkstemp makes private files; a record is as public as the folder it stands in
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise writing_failed(path, error) from error


def check_writable(path: Path) -> None:
    """Refuse a path that can't be written, before anything long is run.

    Raises:
        DataError: its folder doesn't exist or can't be written to.
    """
    if path.is_dir():
        raise writing_failed(path, IsADirectoryError("it is a folder"))
    if not os.access(path.parent, os.W_OK):
        raise writing_failed(path, PermissionError("its folder is missing or read-only"))


def record_path(path: Path | None, default: str, *, force: bool) -> Path:
    """Where a record is to be written, found before anything long is run.

    Args:
        path: that the user named; None for the default, which `free_path` gives a number where a
            record is there already.
        default: its name.
        force: whether a record that is there may be replaced.

    Raises:
        DataError: a record is at the path that was named, or it can't be written, see
            `check_writable`.
    """
    named, path = path is not None, path or Path(default)
    check_writable(path)
    if named and not force and _holds(path):
        raise DataError(
            "there is a file of that name, such as the record of an earlier run.",
            where=str(path),
            remedy="Name another one with --out, or replace it with --force.",
        )
    return path


def free_path(path: Path, *, force: bool) -> Path:
    """A path, or, where another run wrote there before, one with a number behind its name."""
    names = (path.with_stem(f"{path.stem}-{number}") for number in count(2))
    return path if force else next(one for one in chain([path], names) if not _holds(one))


def _holds(path: Path) -> bool:
    """Whether there is something to lose; an empty file, as mktemp makes it, is not."""
    return path.exists() and path.stat().st_size > 0


def writing_failed(path: Path, error: Exception, what: str = "file") -> DataError:
    """The error for a file that can't be written, with what would help.

    Args:
        path: the file.
        error: why not.
        what: what it is.
    """
    number = getattr(error, "errno", None)
    if number in FULL:
        remedy = "Make room there and start again: what is written so far stays."
    elif number in (errno.EROFS, errno.EACCES, errno.EPERM):
        remedy = "Name a folder that can be written to, with --out or in a study with 'out'."
    elif number in UNLOCKED or isinstance(error, NotImplementedError):
        remedy = (
            "Name a folder on a file system that has locks, with --out or in a study with 'out'."
        )
    else:
        remedy = "Name a file in an existing folder, with --out or in a study with 'out'."
    return DataError(f"the {what} can't be written ({error}).", where=str(path), remedy=remedy)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
