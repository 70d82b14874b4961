"""Frozen dataclasses that are made while torch traces.

A compiled graph looks up at every call what was read of Python while it was traced. Of
`dataclasses.replace`, and in torch 2.11 of a frozen dataclass made without a field that has a
default, these are the descriptions of the class's fields, many for one record. So the engine makes
such records with all of their fields where a tower is traced, and changes them by `changed`.
"""

from __future__ import annotations

from typing import Any, TypeVar

Record = TypeVar("Record")


def changed(record: Record, **values: Any) -> Record:
    """A dataclass like `record` with other values in some fields, as `dataclasses.replace` has it.

    Args:
        record: a dataclass whose fields are all arguments of its constructor.
        values: by name of the field.
    """
    names: tuple[str, ...] = type(record).__match_args__  # type: ignore[attr-defined]
    own = {name: getattr(record, name) for name in names if name not in values}
    return type(record)(**own, **values)
