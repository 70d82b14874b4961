"""A record that is made in parts: rows of one environment, written as they come."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.recording import write_record
from tokenprune.lab.measure.environment import describe_environment

Row = dict[str, Any]


@dataclass
class Parts:
    """The record.

    Attributes:
        path: its file.
        key: names of what tells a row from all others, which rows stand in the order of.
        order: of some of these, the values in their order; others ascend.
        environment: of all rows.
        rows: measured so far.
    """

    path: Path
    key: Sequence[str]
    order: Mapping[str, Sequence[Any]]
    environment: dict[str, Any]
    rows: list[Row]

    @classmethod
    def begin(
        cls, path: Path, key: Sequence[str], order: Mapping[str, Sequence[Any]], *, append: bool
    ) -> Parts:
        """An empty record, or the one that is there.

        Args:
            path: its file.
            key: see the class.
            order: see the class.
            append: whether to go on with what the file holds.

        Raises:
            ValueError: the file's rows were measured in another environment.
        """
        environment, rows = describe_environment(), list[Row]()
        if append and path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            rows = found["rows"]
            other = _differences(found["environment"], environment)
            if other:
                raise ValueError(
                    f"{path} was measured in another environment ({other}); begin a new record."
                )
        return cls(path, key, order, environment, rows)

    def put(self, row: Row) -> None:
        """Add a row, in place of the one that it measures again, and write the record."""
        mine = self._named(row)
        self.rows = [one for one in self.rows if self._named(one) != mine] + [row]
        self.rows.sort(key=self._place)
        record = {"schema_version": 1, "environment": self.environment, "rows": self.rows}
        write_record(self.path, record)

    def _named(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in self.key)

    def _place(self, row: Row) -> tuple[Any, ...]:
        return tuple(
            self.order[name].index(row[name]) if name in self.order else row[name]
            for name in self.key
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs, in words; empty if nothing does."""
    return ", ".join(
        f"{name}: {before.get(name)} there, {now.get(name)} here"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    )
