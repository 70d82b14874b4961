"""What a measurement came to so far, a line a batch, so that an interrupted one goes on."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

from tokenprune.errors import DataError
from tokenprune.lab.measure.locks import locked
from tokenprune.lab.measure.measurement import Measured
from tokenprune.lab.measure.preparing import Preparing

#: What a row has summed up over all batches, as of the last one.
SUMS = ("tokens", "flops", "failure", "tiles", "counted", "images", "counts")


class Journal:
    """The file of one measurement, used in a `with`; its name says which plans, samples and model.

    A line holds a batch and its checksum: of a line that was cut off or edited, and of those behind
    it, the batches are measured anew. Two runs at once don't share a file: the later one measures
    everything. Where there is no room for it, the measurement goes on without.

    Args:
        path: of the file; its folder is made with the first batch.
        about: what the measurement depends on, as plain data, for `kept_about`.

    Attributes:
        batches: how many are in it.
    """

    def __init__(self, path: Path, about: Mapping[str, Any] | None = None) -> None:
        self.path, self.batches, self.about = path, 0, about or {}
        self._held: ExitStack | None = None  # not made here: a journal travels to its process
        self._mine = False
        self._lengths: list[int] = []

    def __enter__(self) -> Self:
        self._held = ExitStack()
        try:
            self.path.parent.mkdir(exist_ok=True)
            self._mine = self._held.enter_context(locked(_lock(self.path)))
        except (OSError, DataError) as error:
            self._give_up(error)
        return self

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            self._held.close()

    def restore(
        self, rows: Sequence[Measured], preparing: Preparing
    ) -> tuple[int, tuple[int, list[int]]]:
        """Give the rows what was measured before, and let samples begin behind it.

        Args:
            rows: fresh ones, in the order in which they were written.
            preparing: at its begin.

        Returns:
            How many batches were measured, and the elements and samples of the largest of them.
        """
        largest: tuple[int, list[int]] = (-1, [0])
        for line in self._lines():
            for row, one in zip(rows, line["rows"], strict=True):
                _add(row, line["numbers"], one)
            preparing.taken = line["taken"]
            preparing.lost = {int(number): why for number, why in line["lost"].items()}
            largest = (line["largest"][0], line["largest"][1])
            self.batches += 1
        self._lengths = [len(row.lengths) for row in rows]
        return self.batches, largest

    def add(
        self,
        numbers: Sequence[int],
        rows: Sequence[Measured],
        preparing: Preparing,
        largest: tuple[int, list[int]],
    ) -> None:
        """Write down the batch that was just measured.

        Args:
            numbers: of its samples.
            rows: as they are behind it.
            preparing: as it is behind it.
            largest: elements and samples of the largest batch so far.
        """
        if not self._mine:
            return
        told = [_told(row, numbers, at) for row, at in zip(rows, self._lengths, strict=True)]
        self._lengths = [len(row.lengths) for row in rows]
        body = {"batch": self.batches, "taken": preparing.taken, "numbers": [*numbers]}
        if not self.batches:
            body["about"] = self.about
        text = json.dumps({**body, "lost": preparing.lost, "largest": largest, "rows": told})
        self.batches += 1
        try:
            with self.path.open("ab") as file:
                file.write(f"{_checksum(text)} {text}\n".encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._give_up(error)

    def peek(self) -> int | None:
        """How many batches it holds, before it is used; None while another run writes it."""
        if not self.path.exists():
            return 0
        try:
            with locked(_lock(self.path)) as mine:
                return len([*_sound(self.path)]) if mine else None
        except (OSError, DataError):  # said where it is used
            return 0

    def _lines(self) -> Iterator[dict[str, Any]]:
        """The sound lines from the first on; the file is cut behind them."""
        if not self._mine or not self.path.exists():
            return
        found = [*_sound(self.path)]
        os.truncate(self.path, sum(length for length, _ in found))
        yield from (body for _, body in found)

    def _give_up(self, error: Exception) -> None:
        self._mine = False
        warnings.warn(
            f"what is measured can't be kept for a later run ({error}).", UserWarning, stacklevel=3
        )


def kept_about(folder: Path) -> list[dict[str, Any]]:
    """What the journals of a folder say that their measurements depend on, the latest first."""
    with suppress(OSError):
        paths = sorted(folder.glob("*.jsonl"), key=lambda path: -path.stat().st_mtime)
        firsts = [next(_sound(path), None) for path in paths]
        told = [first[1].get("about", {}) for first in firsts if first is not None]
        return [about for about in told if about]  # older ones say nothing
    return []


def forget(journals: Sequence[Path]) -> None:
    """Remove journals that no other run works on, and their folder if it is empty then.

    Those of other measurements, which may go on another day, stay.
    """
    for path in journals:
        with suppress(OSError, DataError), locked(_lock(path)) as mine:
            if mine:
                path.unlink(missing_ok=True)
                _lock(path).unlink(missing_ok=True)
    for folder in {path.parent for path in journals}:
        with suppress(OSError):
            folder.rmdir()


def _lock(path: Path) -> Path:
    return path.with_suffix(".lock")


def _sound(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of a journal up to the first that isn't what was written: bytes, and the batch."""
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True)):
        checksum, _, text = line.decode(errors="replace").rstrip("\n").partition(" ")
        if not line.endswith(b"\n") or checksum != _checksum(text):
            return
        body = json.loads(text)
        if body["batch"] != number:  # somebody removed the file under the run
            return
        yield len(line), body


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _told(row: Measured, numbers: Sequence[int], lengths: int) -> dict[str, Any]:
    """What one batch adds to a row, and the row's sums behind it."""
    sums = {name: getattr(row, name) for name in SUMS}
    if row.failure:  # nothing else of it is read
        return {"sums": sums}
    return {
        "answers": [row.answers[number] for number in numbers],
        "wall": row.wall[-1],
        "lengths": row.lengths[lengths:],
        "seconds": dict(row.seconds),
        "sums": sums,
    }


def _add(row: Measured, numbers: Sequence[int], one: dict[str, Any]) -> None:
    """Undo `_told`."""
    for name, value in one["sums"].items():
        setattr(row, name, value)
    if row.failure:
        return
    row.answers.update(zip(numbers, one["answers"], strict=True))
    row.wall.append(one["wall"])
    row.lengths += one["lengths"]
    row.seconds.update(one["seconds"])
