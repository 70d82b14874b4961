"""Files that a plan's parameters name, found from wherever the plan is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from tokenprune.errors.files import is_file
from tokenprune.plugins.host import host


def anchored(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A plan's mapping whose parameters name files beside it by their whole paths.

    A relative name means a file relative to the plan, or else to the working directory. Names that
    mean the same file from both stay as they are written, so that records of a plan don't depend on
    the machine without need.

    Args:
        data: as it was read; whatever is wrong in it stays.
        folder: of its file.
    """
    stages = data.get("stages")
    if not isinstance(stages, list):
        return dict(data)
    return {**data, "stages": [_stage(stage, folder) for stage in stages]}


def _stage(stage: Any, folder: Path) -> Any:
    params = stage.get("params") if isinstance(stage, Mapping) else None
    if not isinstance(params, Mapping):
        return stage
    names = _files(stage.get("strategy")) & {name for name in params if isinstance(name, str)}
    found = {name: _beside(params[name], folder) for name in names}
    return {**stage, "params": {**params, **found}} if found else stage


def _files(strategy: Any) -> set[str]:
    """The parameters of a strategy that are paths."""
    kind = host().strategies.get(strategy) if isinstance(strategy, str) else None
    if kind is None:
        return set()
    fields = kind.Params.model_fields.items()
    return {
        field.alias or name
        for name, field in fields
        if Path in (field.annotation, *get_args(field.annotation))
    }


def _beside(value: Any, folder: Path) -> Any:
    if not isinstance(value, str) or Path(value).is_absolute() or not is_file(folder / value):
        return value
    beside = (folder / value).resolve()
    same = is_file(Path(value)) and Path(value).resolve() == beside
    return value if same else str(beside)
