"""A cell as plain data that means the same on another machine: every path in it is absolute."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenprune.lab.models import REFERENCE
from tokenprune.lab.studies.load import Cell
from tokenprune.lab.studies.model import ModelEntry, Study, TaskEntry
from tokenprune.plan import Plan, load_plan
from tokenprune.plan.dump import plan_data
from tokenprune.plugins.strategies import strategy_class, strategy_params

Packed = dict[str, Any]


def pack(cell: Cell, study: Study) -> Packed:
    """Everything a worker needs to run a cell, as values that JSON can hold.

    Args:
        cell: the cell.
        study: its study; of it, only the settings travel.

    Returns:
        What `unpack` takes. Models and files are named by absolute paths, so the worker needs a
        file system that shows them at the same place, and not this process's working directory.
    """
    settings = study.model_dump(mode="json", exclude={"models", "tasks", "plans"})
    return {
        "number": cell.number,
        "name": cell.name,
        "model": _placed_model(cell.model).model_dump(mode="json"),
        "task": _placed_task(cell.task).model_dump(mode="json"),
        "plan": _placed_plan(cell.plan),
        "settings": settings,
    }


def unpack(packed: Mapping[str, Any]) -> tuple[Cell, Study]:
    """The cell and the study's settings; the plan is checked against this machine's plugins.

    Raises:
        PlanError: a strategy of the plan isn't installed here.
    """
    model = ModelEntry.model_validate(packed["model"])
    task = TaskEntry.model_validate(packed["task"])
    plan = load_plan(packed["plan"])
    study = Study.model_validate(
        {**packed["settings"], "models": [model], "tasks": [task], "plans": [{"plan": {}}]}
    )
    return Cell(packed["number"], model, task, packed["name"], plan), study


def _placed_model(model: ModelEntry) -> ModelEntry:
    """A folder beats a scheme here as it does where models are loaded."""
    place = Path(model.name)
    file = model.name != REFERENCE and place.exists()
    name = str(place.resolve()) if file else model.name
    return model.model_copy(update={"name": name, "weights": _absolute(model.weights)})


def _placed_task(task: TaskEntry) -> TaskEntry:
    names = _absolute(task.classes) if isinstance(task.classes, Path) else task.classes
    changed = {
        "path": _absolute(task.path),
        "images": _absolute(task.images),
        "labels": _absolute(task.labels),
        "classes": names,
    }
    if task.dataset is not None and Path(task.dataset).is_dir():  # and no name of the hub
        return task.model_copy(update={**changed, "dataset": str(Path(task.dataset).resolve())})
    return task.model_copy(update=changed)


def _placed_plan(plan: Plan) -> dict[str, Any]:
    data = plan_data(plan)
    for stage, written in zip(plan.stages, data.get("stages", ()), strict=True):
        params = strategy_params(strategy_class(stage.strategy), stage.params)
        for name, field in type(params).model_fields.items():
            value, key = getattr(params, name), field.alias or name
            # a name such as bundled:NAME is typed as a path and is no file
            if isinstance(value, Path) and key in stage.params and value.exists():
                written["params"][key] = str(value.resolve())
    return data


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.resolve()
