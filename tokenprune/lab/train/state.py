"""Resumable states: each is written beside its place and then moved into it as a whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenprune.errors import CheckpointError, DataError

FOLDER = "state"
PROGRESS = "progress.json"
PREFIX = "step-"
PARTIAL = "partial-"

BEGIN_AGAIN = "Use --restart to begin again, or another --out."


def unreadable(state: Path, reason: str) -> CheckpointError:
    """The error for a state that can't be read."""
    return CheckpointError(
        f"the state of the run can't be read ({reason}).", where=str(state), remedy=BEGIN_AGAIN
    )


class StateFolder:
    """The states of a run; the newest complete one counts, whenever the run was killed.

    Args:
        out: the run's folder.
        identity: what a run must have in common with a state to go on from it.
    """

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        self.folder = out / FOLDER
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))

    def complete(self) -> list[Path]:
        """The complete states, the newest first: that one and the one before it."""
        found = (path for path in self.folder.glob(f"{PREFIX}*") if path.is_dir())
        return sorted(found, reverse=True)

    def read(self, state: Path) -> dict[str, Any]:
        """What was noted with a state.

        Raises:
            CheckpointError: it is damaged.
            DataError: it is of a run with other settings.
        """
        try:
            data: dict[str, Any] = json.loads((state / PROGRESS).read_text(encoding="utf-8"))
            before: dict[str, Any] = data["identity"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise unreadable(state, str(error)) from error
        keys = {**self.identity, **before}
        changed = [key for key in keys if self.identity.get(key) != before.get(key)]
        if changed:
            pairs = [
                f"{key} was {_value(before, key)} and is {_value(self.identity, key)}"
                for key in changed
            ]
            raise DataError(
                f"the folder holds a run with other settings: {'; '.join(pairs)}.",
                where=str(state.parent.parent),
                remedy="Use the same settings to go on, --restart, or another --out.",
            )
        return data

    def begin(self, step: int) -> Path:
        """An empty folder to write a state into; unfinished ones are removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(left, ignore_errors=True)
        partial = self.folder / f"{PARTIAL}{step:08d}"
        partial.mkdir()
        return partial

    def publish(self, partial: Path, data: dict[str, Any]) -> None:
        """Make a written state the newest one; of those before it, the last is kept."""
        text = json.dumps({"identity": self.identity, **data})
        (partial / PROGRESS).write_text(text, encoding="utf-8")
        for path in partial.rglob("*"):
            _sync(path)
        final = partial.with_name(partial.name.replace(PARTIAL, PREFIX, 1))
        older = [path for path in self.complete() if path != final]
        if final.exists():
            shutil.rmtree(final)
        os.rename(partial, final)
        _sync(self.folder)
        for path in older[1:]:
            shutil.rmtree(path, ignore_errors=True)

    def clear(self) -> None:
        """Forget all states."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _sync(path: Path) -> None:
    """Have a file or a folder on the disk before what follows."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _value(settings: Mapping[str, Any], key: str) -> str:
    return str(settings[key]) if key in settings else "unset"
