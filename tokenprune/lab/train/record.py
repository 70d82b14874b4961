"""What a finished run says of itself: in its record, and inside the checkpoint."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokenprune.interface.loading import LoadedMllm
from tokenprune.interface.trainable import TrainableStrategy
from tokenprune.lab.measure.environment import describe_environment
from tokenprune.lab.train.data import Stream
from tokenprune.lab.train.loop import Run
from tokenprune.lab.train.settings import TrainSettings
from tokenprune.plan import Plan, dump_plan
from tokenprune.reference import reference_model_path, video_model_path

SCHEMA_VERSION = 1


def facts(loaded: LoadedMllm, plan: Plan, number: int, steps: int) -> dict[str, str]:
    """What a checkpoint says of itself: model, budget and steps."""
    bundled = {reference_model_path(): "reference", video_model_path(): "video"}
    keep = plan.stages[number].keep
    return {
        "model": bundled.get(Path(loaded.name), Path(loaded.name).name),
        "model_sha256": loaded.fingerprint(),
        "keep": str(keep) if isinstance(keep, int) else "",
        "steps": str(steps),
    }


def training_record(
    loaded: LoadedMllm,
    strategy: str,
    plan: Plan,
    learner: TrainableStrategy[Any],
    file: Path,
    stream: Stream,
    settings: TrainSettings,
    run: Run,
    heldout: dict[str, Any] | None,
) -> dict[str, Any]:
    """The record of a run, as plain data.

    Args:
        loaded: the model that it was trained on.
        strategy: what was trained.
        plan: as the user gave it.
        learner: the trained instance.
        file: its checkpoint, written.
        stream: the questions.
        settings: of the run.
        run: its course.
        heldout: accuracy on held-out questions, if any were asked.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "strategy": strategy,
        "plan": dump_plan(plan),
        "model": {
            "name": Path(loaded.name).name,
            "weights": loaded.weights,
            "sha256": loaded.fingerprint(),
        },
        "data": stream.name,
        **({"data_sha256": stream.digest} if stream.digest else {}),
        "settings": settings.data(),
        "phases": {phase.name: phase.share for phase in learner.phases},
        "seconds": round(run.seconds, 1),
        "starts": run.starts,
        "curve": run.curve.points,
        "heldout": heldout,
        "checkpoint": {
            "file": file.name,
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "parameters": sum(p.numel() for p in learner.modules().parameters()),
        },
        "environment": describe_environment(),
    }
