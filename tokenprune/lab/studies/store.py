"""Records of cells on disk: content-addressed, atomic, checked, and safe for two runs at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenprune.errors import DataError
from tokenprune.errors.files import reason
from tokenprune.lab.measure.code import digest
from tokenprune.lab.measure.files import write_text
from tokenprune.lab.measure.locks import locked
from tokenprune.lab.studies.forms import wrong_form

FORMAT = 1

#: The file that says which cells are those of the study as it is now.
NOTE = "study.json"

Status = Literal["done", "failed"]


@dataclass(frozen=True)
class Record:
    """One finished cell.

    Attributes:
        identity: what the cell is; its digest is the record's key.
        status: `done`, or `failed` with a reason in `result`.
        result: what was measured.
    """

    identity: Mapping[str, Any]
    status: Status
    result: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The content address."""
        return digest(self.identity)

    def text(self) -> str:
        """As it is written, checksum included."""
        body = {
            "format": FORMAT,
            "identity": self.identity,
            "status": self.status,
            "result": self.result,
        }
        return json.dumps({**body, "checksum": digest(body)}, indent=1, allow_nan=False) + "\n"


class Damaged(Exception):
    """A record that isn't what was written: cut off, edited, or of another cell."""


class Store:
    """The folder of a study's records.

    Args:
        folder: made if it isn't there.

    Raises:
        DataError: it can't be written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            (folder / "cells").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"the folder can't be made ({error}).", where=str(folder), remedy="Change 'out'."
            ) from error

    def path(self, key: str) -> Path:
        """The file of a record."""
        return self.folder / "cells" / f"{key}.json"

    def read(self, key: str) -> Record | None:
        """The record of a cell, or None if there is none.

        Raises:
            Damaged: it is there and not what was written.
        """
        try:
            text = self.path(key).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise Damaged(f"it can't be read ({reason(error)})") from error
        return parse(text, key)

    def write(self, record: Record) -> None:
        """Write a record as a whole or not at all."""
        write_text(self.path(record.key), record.text())

    def note(self, name: str, keys: Sequence[str]) -> None:
        """Write which cells the study has now and in which order, for reports."""
        data = {"format": FORMAT, "name": name, "cells": list(keys)}
        write_text(self.folder / NOTE, json.dumps(data, indent=1) + "\n")

    def noted(self) -> tuple[str, list[str]]:
        """The study's name and the keys of its cells; empty where there is no readable note."""
        try:
            data = json.loads((self.folder / NOTE).read_text(encoding="utf-8"))
            return str(data["name"]), [str(key) for key in data["cells"]]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return "", []

    def claimed(self, key: str) -> AbstractContextManager[bool]:
        """Whether this process alone works on a cell; a claim ends with its process at the latest.

        Args:
            key: of the cell.

        Raises:
            DataError: there is no room for the lock, or the file system has none.
        """
        return locked(self.folder / "cells" / f".{key}.lock")

    def records(self) -> tuple[list[Record], dict[str, str]]:
        """All records, and what is wrong with damaged ones, by file name."""
        return self._read_all(frozenset())

    def others(self, keys: Iterable[str]) -> list[Record]:
        """All sound records but those of these keys."""
        return self._read_all(frozenset(keys))[0]

    def _read_all(self, without: Set[str]) -> tuple[list[Record], dict[str, str]]:
        found, damaged = [], {}
        for path in sorted((self.folder / "cells").glob("*.json")):
            if path.stem in without:
                continue
            try:
                record = self.read(path.stem)
            except Damaged as error:
                damaged[path.name] = str(error)
            else:
                if record is not None:
                    found.append(record)
        return found, damaged


def parse(text: str, key: str) -> Record:
    """A record from its text.

    Raises:
        Damaged: its checksum, its key or its form doesn't fit.
    """
    try:
        data = json.loads(text)
        checksum = data.pop("checksum")
        record = Record(data["identity"], data["status"], data["result"])
        found, own = digest(data), record.key
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged("it is no complete record") from error
    if found != checksum:
        raise Damaged("its checksum doesn't fit: it was edited or cut off")
    if own != key:
        raise Damaged("it is the record of another cell")
    wrong = wrong_form(record.identity, record.status, record.result)
    if wrong:
        raise Damaged(f"it isn't what studies write ({wrong})")
    return record
