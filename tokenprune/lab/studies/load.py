"""Reading study files, and what they come to: one cell a combination."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from tokenprune.errors import PlanError
from tokenprune.errors.files import read_text, reason
from tokenprune.errors.names import suggestion
from tokenprune.errors.validation import plan_error
from tokenprune.lab.data.question import Columns
from tokenprune.lab.models import REFERENCE
from tokenprune.lab.studies.model import ModelEntry, PlanEntry, Study, TaskEntry
from tokenprune.lab.studies.naming import plan_name
from tokenprune.plan import Plan, load_plan
from tokenprune.plan.read import PLAN_BYTES, is_plan, parse

DENSE = "dense"

#: Most cells of a study (ours): at a second each, as many take more than a day.
MOST = 100_000

Varied = Mapping[str, Any]

#: Where data lie doesn't make a cell another one; what they hold is in its identity.
_PLACES = {"path", "images", "labels", "classes", "dataset"}


@dataclass(frozen=True)
class Cell:
    """One combination of a study.

    Attributes:
        number: its place in the study.
        model: which model.
        task: which task.
        name: how the report calls the plan.
        plan: resolved and validated; without stages it is the dense model.
        varied: what a grid put into the plan, by dotted place.
        added: whether the study added it as a baseline.
        unfit: why it can't run: its plan doesn't fit the model, but another one of the study.
        entry: which of the study's plans it is of; 0 for dense and for what the study added.
    """

    number: int
    model: ModelEntry
    task: TaskEntry
    name: str
    plan: Plan
    varied: Mapping[str, Any] = field(default_factory=dict)
    added: bool = False
    unfit: str = ""
    entry: int = 0

    @property
    def label(self) -> str:
        """For progress bars and messages."""
        return f"{self.name}, {self.task.title}, {self.model.shown}"


def load_study(path: Path) -> Study:
    """Read and validate a study file; paths in it become relative to its folder.

    Raises:
        PlanError: naming file and key of what is wrong.
    """
    try:
        data = parse(read_text(path, PLAN_BYTES), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"the study can't be read ({reason(error)}).", where=str(path)) from error
    if not isinstance(data, Mapping):
        raise PlanError(
            "a study is a mapping.", where=str(path), remedy="Start with 'out:' and 'plans:'."
        )
    if is_plan(data):
        raise PlanError(
            "this is a plan, and a study is needed.",
            where=str(path),
            remedy="Check it with: tokenprune validate FILE; measure it with: tokenprune compare "
            "--plans FILE.",
        )
    try:
        study = Study.model_validate(dict(data))
    except ValidationError as error:
        raise plan_error(error, data, where=str(path), keys=_keys(), at="") from error
    return _named(_anchored(study, path.resolve().parent), str(path))


def cell_count(study: Study) -> int:
    """How many cells a study has, without making them."""
    grids = [(entry, prod(map(len, entry.grid.values()))) for entry in study.plans]
    return len(study.tasks) * sum(
        1 + sum(count for entry, count in grids if entry.runs_on(model)) for model in study.models
    )


def cells(study: Study) -> list[Cell]:
    """Every cell, dense first for each model and task; all plans are validated here.

    Raises:
        PlanError: a plan is wrong, two plans of a model have one name, or there are more than
            `MOST` cells.
    """
    count = cell_count(study)
    if count > MOST:
        raise PlanError(
            f"the study has {count:,} cells, and at most {MOST:,} are made.",
            where="plans",
            remedy="Divide it into several studies, or take values out of a 'grid'.",
        )
    dense = 0, DENSE, Plan(seed=study.seed), dict[str, Any]()
    plans: list[tuple[int, str, Plan, Varied]] = [dense]
    for number, entry in enumerate(study.plans):
        try:
            plans += [(number + 1, *one) for one in _expanded(entry, study.seed)]
        except PlanError as error:
            place = f"plans.{number}" + (f" ({entry.name})" if entry.name else "")
            error.where = ": ".join(filter(None, (place, error.where)))
            raise
    crossed = [
        Cell(0, model, task, name, _for(task, plan), varied, entry=entry)
        for model, task, (entry, name, plan, varied) in product(study.models, study.tasks, plans)
        if not entry or study.plans[entry - 1].runs_on(model)
    ]
    _check_names(crossed)
    return [replace(cell, number=number) for number, cell in enumerate(crossed)]


def _check_names(crossed: Sequence[Cell]) -> None:
    """Refuse plans that no report of a model could tell apart."""
    counts = Counter((cell.model.shown, cell.task.title, cell.name) for cell in crossed)
    twice = min((names for names, count in counts.items() if count > 1), default=None)
    if twice is not None:
        model, _, name = twice
        raise PlanError(
            f"two plans of the model '{model}' are called '{name}'.",
            where="plans",
            remedy="Give each entry a 'name' of its own, and in a template name every key of its "
            "grid: '{strategy}-{keep}'.",
        )


def _expanded(entry: PlanEntry, seed: int) -> Iterator[tuple[str, Plan, Varied]]:
    places = list(entry.grid)
    for values in product(*entry.grid.values()):
        overrides = dict(zip(places, values, strict=True))
        plan = load_plan(entry.plan, overrides=overrides)
        if "seed" not in plan.model_fields_set:
            plan = plan.model_copy(update={"seed": seed})
        yield plan_name(entry, plan, overrides), plan, overrides


def _for(task: TaskEntry, plan: Plan) -> Plan:
    return plan.model_copy(update={"images": "frames"}) if task.video else plan


def _anchored(study: Study, folder: Path) -> Study:
    def at(path: Path | None) -> Path | None:
        return None if path is None else folder / path

    plans = tuple(
        entry.model_copy(update={"plan": folder / entry.plan})
        if isinstance(entry.plan, Path)
        else entry
        for entry in study.plans
    )
    tasks = tuple(
        task.model_copy(
            update={
                "path": at(task.path),
                "images": at(task.images),
                "labels": at(task.labels),
                "classes": at(task.classes) if isinstance(task.classes, Path) else task.classes,
                "dataset": task.dataset and _beside(task.dataset, folder),
            }
        )
        for task in study.tasks
    )
    models = tuple(
        m.model_copy(update={"weights": at(m.weights), "name": _place(m, folder)})
        for m in study.models
    )
    changed = {"out": folder / study.out, "plans": plans, "tasks": tasks, "models": models}
    return study.model_copy(update=changed)


def _beside(name: str, folder: Path) -> str:
    """A model or dataset in a folder beside the study by its path; other names stay."""
    return str(folder / name) if (folder / name).is_dir() else name


def _place(model: ModelEntry, folder: Path) -> str:
    """The bundled model keeps its name, even where a folder is called so."""
    return model.name if model.name == REFERENCE else _beside(model.name, folder)


def _named(study: Study, where: str) -> Study:
    """The study, if its names tell models and tasks apart, and its plans name models of it."""
    for key, remedy, names in (
        ("models", "title", [model.shown for model in study.models]),
        ("tasks", "name", [task.title for task in study.tasks]),
    ):
        seen: set[str] = set()
        for number, name in enumerate(names):
            if name in seen:
                raise PlanError(
                    f"two {key} are called '{name}'.",
                    where=f"{where}: {key}.{number}",
                    remedy=f"Remove one, or give it a '{remedy}' of its own.",
                )
            seen.add(name)
    models = [model.shown for model in study.models]
    for number, entry in enumerate(study.plans):
        for name in entry.models or ():
            if name not in models:
                raise PlanError(
                    f"no model of the study is called '{name}'.",
                    where=f"{where}: plans.{number}.models",
                    remedy=suggestion(name, models),
                )
    return study


def _keys() -> dict[str, list[str]]:
    kinds: dict[str, type[BaseModel]] = {
        "": Study,
        "models": ModelEntry,
        "tasks": TaskEntry,
        "columns": Columns,
        "plans": PlanEntry,
    }
    return {name: list(kind.model_fields) for name, kind in kinds.items()}


def identity(cell: Cell, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a cell the cell it is, as plain data.

    Args:
        cell: the cell.
        facts: revisions of model and data, versions and hardware.
    """
    return {
        "name": cell.name,
        "plan": cell.plan.model_dump(mode="json", exclude_none=True),
        "task": {
            **cell.task.model_dump(mode="json", exclude=_PLACES),
            "name": cell.task.title,
        },
        "model": {
            **cell.model.model_dump(mode="json", exclude={"weights", "title"}),
            "name": cell.model.shown,
        },
        **({"grid": _data(cell.varied)} if cell.varied else {}),
        **({"added": True} if cell.added else {}),
        **facts,
    }


def _data(varied: Varied) -> dict[str, Any]:
    """Values of a grid as plain data."""
    return dict(TypeAdapter(dict[str, Any]).dump_python(dict(varied), mode="json"))
