"""Reporters for experiment trackers: one run a cell, all of a study in one project."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module, util
from typing import Any, ClassVar

from tokenprune.errors import BackendUnavailableError
from tokenprune.errors.installing import pip_install
from tokenprune.lab.studies.reporters import CellReport, Closing, Opening

#: Parameters of MLflow's older servers hold so many characters.
LONGEST = 500


@dataclass
class Tracker:
    """What the trackers have in common.

    Attributes:
        project: where the runs go; default: the study's name.

    Raises:
        BackendUnavailableError: the library isn't installed.
    """

    name: ClassVar[str] = ""

    project: str | None = None
    _study: str = field(default="", init=False)

    def __post_init__(self) -> None:
        if util.find_spec(self.name) is None:
            raise BackendUnavailableError(
                f"the reporter '{self.name}' needs {self.name}.",
                remedy=f"Install it: {pip_install(self.name)}.",
            )

    def started(self, opening: Opening) -> None:
        """Remember the project; runs are made cell by cell."""
        self._study = self.project or opening.study

    def finished(self, cell: CellReport) -> None:
        """See `Reporter`."""
        raise NotImplementedError

    def ended(self, closing: Closing) -> None:
        """Nothing: every cell's run has ended."""


@dataclass
class WandbReporter(Tracker):
    """Weights & Biases; WANDB_MODE=offline keeps runs on this machine."""

    name = "wandb"

    def finished(self, cell: CellReport) -> None:
        """One run with the cell's config and numbers."""
        library = import_module(self.name)
        library.init(project=self._study, name=cell.label, config=_config(cell), **self._settings())
        try:
            if cell.numbers:
                library.log(dict(cell.numbers))
        finally:
            self._finish(library, cell)

    def _settings(self) -> dict[str, Any]:
        return {"job_type": "tokenprune"}

    def _finish(self, library: Any, cell: CellReport) -> None:
        library.finish(exit_code=0 if cell.status == "done" else 1)


@dataclass
class TrackioReporter(WandbReporter):
    """Trackio, on this machine unless TRACKIO_SPACE_ID or TRACKIO_SERVER_URL say otherwise."""

    name = "trackio"

    def _settings(self) -> dict[str, Any]:
        # what this process's hardware does now isn't what the cell's did
        return {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}

    def _finish(self, library: Any, cell: CellReport) -> None:
        library.finish()


@dataclass
class MlflowReporter(Tracker):
    """MLflow, at the place that MLFLOW_TRACKING_URI names."""

    name = "mlflow"

    def finished(self, cell: CellReport) -> None:
        """One run of the experiment, with flat parameters."""
        mlflow = import_module(self.name)
        mlflow.set_experiment(self._study)
        tags = {"tokenprune.key": cell.key, "tokenprune.reason": cell.reason}
        mlflow.start_run(run_name=cell.label, tags=tags)
        try:
            mlflow.log_params(dict(_flat(cell.config)))
            mlflow.log_metrics(dict(cell.numbers))
        finally:
            mlflow.end_run("FINISHED" if cell.status == "done" else "FAILED")


def _config(cell: CellReport) -> dict[str, Any]:
    return {**cell.config, "key": cell.key, "status": cell.status, "reason": cell.reason}


def _flat(data: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Nested plain data as `stages.0.keep`: `64`."""
    if isinstance(data, Mapping):
        items = [(str(key), value) for key, value in data.items()]
    elif isinstance(data, list | tuple):
        items = [(str(number), value) for number, value in enumerate(data)]
    else:
        yield place, str(data)[:LONGEST]
        return
    for key, value in items:
        yield from _flat(value, f"{place}.{key}" if place else key)
