"""Locks on disk, for what one process alone may do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tokenprune.lab.measure.files import writing_failed


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Whether this process alone has a lock; a lock ends with its process at the latest.

    Args:
        path: of the lock file, which stays.

    Raises:
        DataError: there is no room for the lock, or the file system has none.
    """
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as error:
        raise writing_failed(path, error, "lock") from error
    try:
        yield True
    finally:
        lock.release()
