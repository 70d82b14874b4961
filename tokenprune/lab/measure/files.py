"""Result files: written as a whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tokenprune.errors import DataError


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


def writing_failed(path: Path, error: Exception) -> DataError:
    """The error for a file that can't be written."""
    return DataError(
        f"the file can't be written ({error}).",
        where=str(path),
        remedy="Name a file in an existing folder with --out.",
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
