"""The records of a folder, in the order of the study that wrote them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenprune.errors import DataError
from tokenprune.lab.studies.older import is_older
from tokenprune.lab.studies.store import Record, Store


@dataclass(frozen=True)
class Results:
    """What a folder holds.

    Attributes:
        name: of the study, or of the folder.
        records: of the cells, in the study's order.
        damaged: damaged records by file name, with what is wrong.
        waiting: cells of the study that have no record yet.
        others: records that are left out, since the study has no such cell any more.
        older: how many of these were recorded under other code than that which runs now.
    """

    name: str
    records: tuple[Record, ...]
    damaged: dict[str, str]
    waiting: int = 0
    others: int = 0
    older: int = 0


def read_results(folder: Path, *, everything: bool = False) -> Results:
    """Read the records of a folder; nothing is written.

    Args:
        folder: the study's `out`.
        everything: also records of older settings, versions and other machines.

    Raises:
        DataError: it is no folder of records.
    """
    if not (folder / "cells").is_dir():
        raise DataError(
            "there are no records here: no folder 'cells'.",
            where=str(folder),
            remedy="Name the folder that stands behind 'out' in the study file.",
        )
    store = Store(folder)
    records, damaged = store.records()
    name, keys = store.noted()
    found = {record.key: record for record in records}
    mine = [found.pop(key) for key in keys if key in found]
    broken = {file.removesuffix(".json") for file in damaged}
    waiting = len([key for key in keys if key not in broken]) - len(mine)
    others = sorted(found.values(), key=lambda record: str(record.identity["name"]))
    left_out = [] if everything or not keys else others
    return Results(
        name or folder.resolve().name,
        tuple(mine if left_out else mine + others),
        damaged,
        waiting,
        len(left_out),
        sum(is_older(record.identity) for record in left_out),
    )
