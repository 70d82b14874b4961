"""What a finished run says of itself: in its record, and inside the checkpoint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn

from tokenprune.engine.trained import SAMPLE, sample
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.loading import LoadedMllm
from tokenprune.interface.trainable import ModelShape, TrainableStrategy
from tokenprune.lab.measure.environment import describe_environment
from tokenprune.lab.models import bundled_name
from tokenprune.lab.train.data import Stream
from tokenprune.lab.train.loop import TrainingRun
from tokenprune.lab.train.settings import TrainSettings
from tokenprune.plan import Plan, dump_plan

SCHEMA_VERSION = 1


def facts(
    loaded: LoadedMllm, core: nn.Module, plan: Plan, number: int, steps: int
) -> dict[str, str]:
    """What a checkpoint says of itself: model, budget and steps.

    Args:
        loaded: the model that it was trained on.
        core: the part of it that its adapter calls so.
        plan: the plan of its training.
        number: which of the stages was trained.
        steps: how many steps.
    """
    keep = plan.stages[number].keep
    return {
        "model": bundled_name(loaded.name) or Path(loaded.name).name,
        "model_sha256": loaded.fingerprint(),
        SAMPLE: sample(core),
        "keep": str(keep) if isinstance(keep, int) else "",
        "steps": str(steps),
    }


@dataclass(frozen=True)
class Job:
    """What is trained, on which model, from what.

    Attributes:
        loaded: the model.
        strategy: name of what is trained.
        plan: as the user gave it.
        number: which of its stages is trained.
        stream: the questions.
        settings: of the run.
        adapter: the model's family.
        shape: the model's.
    """

    loaded: LoadedMllm
    strategy: str
    plan: Plan
    number: int
    stream: Stream
    settings: TrainSettings
    adapter: MllmAdapter
    shape: ModelShape

    def record(
        self,
        learner: TrainableStrategy[Any],
        file: Path,
        run: TrainingRun,
        heldout: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """The record of the run, as plain data.

        Args:
            learner: the trained instance.
            file: its checkpoint, written.
            run: the run's course.
            heldout: accuracy on held-out questions, if any were asked.
        """
        stream, loaded = self.stream, self.loaded
        return {
            "schema_version": SCHEMA_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "strategy": self.strategy,
            "plan": dump_plan(self.plan),
            "model": {
                "name": Path(loaded.name).name,
                "weights": loaded.weights,
                "sha256": loaded.fingerprint(),
            },
            "data": stream.name,
            **({"data_sha256": stream.digest} if stream.digest else {}),
            "settings": self.settings.data(),
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
