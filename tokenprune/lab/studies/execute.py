"""Running one cell: what a worker does, wherever it runs."""

from __future__ import annotations

import gc
import traceback
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import torch

from tokenprune.engine.attach import attach
from tokenprune.errors import TokenpruneError
from tokenprune.interface.loading import LoadedModel
from tokenprune.interface.metric import Answered
from tokenprune.lab.judge import Judge
from tokenprune.lab.judge.measured import runs_of, samples_of
from tokenprune.lab.measure.checks import failed_checks
from tokenprune.lab.measure.entries import Entry
from tokenprune.lab.measure.environment import describe_environment
from tokenprune.lab.measure.measurement import Measured, Measurement
from tokenprune.lab.measure.memory import peak_bytes
from tokenprune.lab.measure.metrics import chosen_metrics, scores
from tokenprune.lab.measure.run import measure
from tokenprune.lab.measure.task import Task
from tokenprune.lab.models import load_model, load_options, model_place
from tokenprune.lab.studies.building import build_task
from tokenprune.lab.studies.load import Cell
from tokenprune.lab.studies.model import ModelEntry, Study, TaskEntry
from tokenprune.lab.studies.samples import shown_samples
from tokenprune.lab.studies.store import Status
from tokenprune.lab.trained import check_trained_for
from tokenprune.plugins.host import host


def model_of(model: ModelEntry, task: TaskEntry) -> str:
    """Where a model of a study is loaded from, see `model_place`."""
    return model_place(model.name, "video" if task.video else task.kind, "models")


@lru_cache(maxsize=2)
def loaded_model(place: str, model: ModelEntry) -> LoadedModel:
    """A model, kept for the next cells of this process."""
    return load_model(place, load_options(model.device, model.dtype, model.weights))


def forget_models() -> None:
    """Let go of the models that this process looked at; a worker may be given the same GPU."""
    loaded_model.cache_clear()
    gc.collect()
    torch.cuda.empty_cache()


def cell_task(cell: Cell, study: Study) -> Task:
    """The cell's samples on its model."""
    loaded = loaded_model(model_of(cell.model, cell.task), cell.model)
    return build_task(cell.task, loaded, study)


def execute(cell: Cell, study: Study) -> tuple[Status, dict[str, Any]]:
    """Run a cell; what goes wrong becomes its result, so that others go on."""
    try:
        return "done", _measured(cell_task(cell, study), cell, study)
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        return "failed", {"reason": f"out of memory: {str(error).splitlines()[0]}"}
    except TokenpruneError as error:
        return "failed", {"reason": str(error)}
    except Exception as error:
        lines = traceback.format_exc().splitlines()
        return "failed", {"reason": f"{type(error).__name__}: {error}", "traceback": lines[-12:]}


def _measured(task: Task, cell: Cell, study: Study) -> dict[str, Any]:
    loaded = loaded_model(model_of(cell.model, cell.task), cell.model)
    check_trained_for(loaded, cell.plan)
    entries = [Entry(cell.name, cell.plan)] if cell.plan.stages else []
    found = measure(task, entries, seed=study.seed)
    row = found.plans[0] if entries else found.dense
    timed = row if entries else found.idle
    problems = failed_checks(found, host().strategies)
    asked = task.only(found.numbers)
    return {
        "samples": _samples(asked, found, row, study),
        "left_out": [{"number": number, "reason": why} for number, why in found.lost.items()],
        **_judged(task, found, study.seed),
        "tokens": timed.tokens,
        "seconds": dict(timed.seconds),
        "wall": row.wall,
        "dense_wall": found.dense.wall,
        "flops": row.flops,
        "dense_flops": found.dense.flops,
        "flops_samples": row.counted,
        "peak_bytes": _peak(task.only(found.largest), cell),
        "failures": problems,
        "unknown": task.unknown(),
        "environment": describe_environment(),
        **_shown(asked, cell),
    }


def _judged(task: Task, found: Measurement, seed: int) -> dict[str, Any]:
    """Accuracy, and the paired comparison with the dense answers of the same process.

    The last run is the cell's plan, or dense itself where the cell has none. A comparison with
    `random` needs another cell, so it stands in reports.
    """
    result = Judge(samples_of(task, found), runs_of(task, found), seed).results()[-1]
    assert result.difference is not None
    return {
        "accuracy": asdict(result.accuracy),
        "versus_dense": asdict(result.difference),
        "mcnemar": result.mcnemar,
        "agreement": result.agreement,
    }


def _shown(task: Task, cell: Cell) -> dict[str, Any]:
    """Pictures for the report; a cell that can't be drawn is measured all the same."""
    loaded = loaded_model(model_of(cell.model, cell.task), cell.model)
    try:
        return {"shown": shown_samples(task, cell.plan, loaded)}
    except Exception as error:
        return {"shown": [], "not_shown": f"{type(error).__name__}: {error}"}


def _samples(task: Task, found: Measurement, row: Measured, study: Study) -> list[dict[str, Any]]:
    pairs = list(zip(task.questions, found.said(row), strict=True))
    answered = [
        Answered(q.text, q.matched(answer), answer, (q.answer, *q.others)) for q, answer in pairs
    ]
    scored = scores(chosen_metrics(study.metrics), answered)
    return [
        {
            "number": number,
            "group": question.image_id,
            "kind": question.kind,
            "answer": answer,
            "right": task.right(answer, question),
            "scores": mine,
        }
        for number, (question, answer), mine in zip(found.numbers, pairs, scored, strict=True)
    ]


def _peak(task: Task, cell: Cell) -> int:
    inputs = task.inputs(task.questions)
    device = next(task.model.parameters()).device
    with torch.no_grad(), attach(task.model, cell.plan):
        return peak_bytes(lambda: task.call(inputs), device)
