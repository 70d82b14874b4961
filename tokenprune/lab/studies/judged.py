"""What a cell's answers come to, by themselves and beside the dense ones of the same process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tokenprune.lab.measure.statistics import Bootstrap, mcnemar
from tokenprune.lab.measure.task import Task


def judged(task: Task, answers: Sequence[str], dense: Sequence[str], seed: int) -> dict[str, Any]:
    """Accuracy and the paired comparison with dense.

    A comparison with `random` needs another cell, so it stands in reports.

    Args:
        task: its samples know what is right.
        answers: of the plan, one a sample.
        dense: of the model without a plan, which ran beside it.
        seed: of the resampling.

    Returns:
        `accuracy` and `versus_dense`, each with its 95 % interval (bootstrap over pictures),
        McNemar's exact p as `mcnemar`, and the share of equal answers as `agreement`.
    """
    boot = Bootstrap([question.image_id for question in task.questions], seed)
    right, others = (_right(task, given) for given in (answers, dense))
    same = [one == other for one, other in zip(answers, dense, strict=True)]
    return {
        "accuracy": asdict(boot.mean([*map(float, right)])),
        "versus_dense": asdict(boot.difference([*map(float, right)], [*map(float, others)])),
        "mcnemar": mcnemar(right, others),
        "agreement": sum(same) / len(same),
    }


def _right(task: Task, answers: Sequence[str]) -> list[bool]:
    return [task.right(one, of) for one, of in zip(answers, task.questions, strict=True)]
