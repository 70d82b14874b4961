"""The two comparisons: a multimodal LLM on questions, a classifier on labelled pictures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokenprune.compare.checks import failed_checks
from tokenprune.compare.entries import (
    CLASSIFIER_KEEPS,
    MLLM_KEEPS,
    Entry,
    default_entries,
    encoder_entries,
    plan_entries,
)
from tokenprune.compare.measure import Progress, measure
from tokenprune.compare.pictures import heldout_questions, labelled_pictures
from tokenprune.compare.record import Comparison
from tokenprune.compare.statistics import LEVEL, RESAMPLES
from tokenprune.compare.summary import Summary
from tokenprune.compare.task import ClassifyTask, Task, VqaTask
from tokenprune.environment import describe_environment
from tokenprune.errors import DataError
from tokenprune.loading import LoadedClassifier, LoadedMllm, LoadedModel, LoadOptions
from tokenprune.plan import Plan
from tokenprune.plugins import host
from tokenprune.reference import reference_model_path

#: Questions of the built-in comparison: what two cores answer with 24 plans in a few minutes.
QUESTIONS = 300

POSITIONS = ("original", "compact", "both")


@dataclass(frozen=True)
class Settings:
    """What to compare.

    Attributes:
        plans: name and plan of the user's own; none means all training-free strategies.
        keeps: budgets; none means the built-in ones.
        limit: samples; default `QUESTIONS` for questions, all for pictures.
        batch_size: samples a batch.
        seed: of the plans, the order of runs and the resampling.
        positions: `original`, `compact` or `both`, for multimodal LLMs.
        new_tokens: tokens generated per question.
        split: for pictures: `all`, `first` or `second`.
    """

    plans: Sequence[tuple[str, Plan]] = ()
    keeps: Sequence[int] = ()
    limit: int | None = None
    batch_size: int = 16
    seed: int = 0
    positions: str = "both"
    new_tokens: int = 2
    split: str = "all"


def compare(
    loaded: LoadedModel,
    settings: Settings,
    options: LoadOptions,
    *,
    images: Path | None = None,
    labels: Path | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare plans with each other and with dense on one model.

    Args:
        loaded: the model.
        settings: what to compare.
        options: how the model was loaded, for the record.
        images: folder of pictures, for classifiers.
        labels: CSV with their classes.
        progress: told (runs done, runs in all, what runs).

    Raises:
        TokenpruneError: bad input of any kind, or a plan that doesn't fit the model.
    """
    start = time.perf_counter()
    if isinstance(loaded, LoadedClassifier):
        entries, task, about = _classifier(loaded, settings, images, labels)
    else:
        entries, task, about = _mllm(loaded, settings)
    measured = measure(task, entries, seed=settings.seed, progress=progress)
    summary = Summary(task, measured, settings.seed)
    return Comparison(
        kind=task.kind,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        elapsed=round(time.perf_counter() - start, 1),
        model=_model(loaded, options),
        task=about | {"samples": len(task.questions), "images": _images(task)},
        settings=_settings(settings),
        environment=describe_environment(),
        dense=summary.dense(),
        results=summary.plans(),
        failures=failed_checks(measured, host().strategies),
    )


def _mllm(loaded: LoadedMllm, settings: Settings) -> tuple[list[Entry], Task, dict[str, Any]]:
    strategies = host().strategies
    if settings.positions not in POSITIONS:
        raise DataError(
            f"there is no choice '{settings.positions}'.",
            where="--positions",
            remedy=f"Use {', '.join(POSITIONS)}.",
        )
    if settings.plans:
        entries = plan_entries(settings.plans, settings.keeps, strategies)
    else:
        entries = default_entries(
            strategies,
            settings.keeps or MLLM_KEEPS,
            positions=settings.positions,
            seed=settings.seed,
        )
    questions = heldout_questions(settings.limit or QUESTIONS)
    task = VqaTask(loaded, questions, settings.batch_size, settings.new_tokens)
    return entries, task, {"name": "built-in held-out questions"}


def _classifier(
    loaded: LoadedClassifier, settings: Settings, images: Path | None, labels: Path | None
) -> tuple[list[Entry], Task, dict[str, Any]]:
    if images is None or labels is None:
        raise DataError(
            "a classifier is compared on labelled pictures.",
            where=f"--model {loaded.name}",
            remedy="Pass --images FOLDER and --labels FILE.csv.",
        )
    strategies = host().strategies
    keeps = settings.keeps or CLASSIFIER_KEEPS
    if settings.plans:
        entries = plan_entries(settings.plans, settings.keeps, strategies)
    else:
        entries = encoder_entries(strategies, keeps, seed=settings.seed)
    questions = labelled_pictures(
        images, labels, classes=loaded.classes, split=settings.split, limit=settings.limit
    )
    about = {"name": "labelled pictures", "labels": labels.name, "split": settings.split}
    return entries, ClassifyTask(loaded, questions, settings.batch_size), about


def _model(loaded: LoadedModel, options: LoadOptions) -> dict[str, Any]:
    return {
        "name": _shown_name(loaded.name),
        "weights": loaded.weights,
        "sha256": loaded.fingerprint(),
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "device": str(options.device),
        "dtype": str(options.dtype).removeprefix("torch."),
    }


def _shown_name(name: str) -> str:
    """A name without the folders of the machine that it was loaded on."""
    if Path(name) == reference_model_path():
        return "reference model"
    return Path(name).name


def _images(task: Task) -> int:
    return len({question.image_id for question in task.questions})


def _settings(settings: Settings) -> dict[str, Any]:
    return {
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "new_tokens": settings.new_tokens,
        "resamples": RESAMPLES,
        "level": LEVEL,
        "resampled": "images, with all their samples",
    }
