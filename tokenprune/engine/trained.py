"""Weights of learned strategies belong to the model that they were trained for.

A checkpoint notes a few of that model's weights. They tell models apart without reading all of
one, whatever it was loaded from, and in every dtype.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.engine.stages import ResolvedStage
from tokenprune.errors import CheckpointError
from tokenprune.interface.trainable import TrainableStrategy

#: Key of the weights in a checkpoint's metadata.
SAMPLE = "model_sample"

#: How many weights are noted (ours).
COUNT = 32

#: Share by which a weight may differ: bfloat16 rounds by 1/512 at most (ours).
ROOM = 0.01

#: Share of the weights that have to be the same: single ones may round to nothing (ours).
SAME = 0.9


def sample(core: nn.Module) -> str:
    """Weights at equal distances over all floating-point parameters, and how many there are.

    Parameters count in their order, not by name: names differ between releases of libraries.

    Args:
        core: the part of a multimodal LLM that its adapter calls so.

    Returns:
        JSON: `total` and `weights`.
    """
    values = [value for value in core.parameters() if _readable(value)]
    return json.dumps({"total": _total(values), "weights": _spread(values)})


def refuse_other_models(model: nn.Module, core: nn.Module, stages: Sequence[ResolvedStage]) -> None:
    """Refuse checkpoints that were trained for a model with other weights.

    Equal widths let such a checkpoint run, and what it chooses then means nothing. Checkpoints
    without noted weights, and weights that are quantised or offloaded, say nothing.

    Args:
        model: what the plan is attached to.
        core: the part of it that its adapter calls so.
        stages: of the plan.

    Raises:
        CheckpointError: naming both models.
    """
    for stage in stages:
        kind = type(stage.strategy)
        if not issubclass(kind, TrainableStrategy):
            continue
        facts = kind.trained_for(stage.strategy.params)
        if _other(core, facts.get(SAMPLE, "")):
            raise CheckpointError(
                f"the checkpoint was trained for the model '{facts.get('model', 'unknown')}', and "
                f"this {type(model).__name__} has other weights.",
                where=f"{stage.where}: params.checkpoint",
                remedy=way_out(kind),
            )


def way_out(kind: type[TrainableStrategy[Any]]) -> str:
    """What to do about a checkpoint that was trained for another model."""
    trained = f"Train {kind.name} on this model with `tokenprune train`"
    if "other_model" not in kind.Params.model_fields:
        return f"{trained}."
    return f"{trained}, or write other_model: true beside the checkpoint to use it all the same."


def _other(core: nn.Module, noted: str) -> bool:
    """Whether the weights that were noted are another model's; False where that can't be seen."""
    try:
        found = json.loads(noted) if noted else {}
        total, wanted = int(found["total"]), [float(weight) for weight in found["weights"]]
    except (ValueError, TypeError, KeyError):
        return False
    values = [*core.parameters()]
    if not all(map(_readable, values)):
        return False
    if _total(values) != total:
        return True
    same = [
        math.isclose(one, other, rel_tol=ROOM, abs_tol=1e-7)
        for one, other in zip(_spread(values), wanted, strict=False)
    ]
    return sum(same) < SAME * len(same)


def _readable(value: Tensor) -> bool:
    """Quantised weights are other numbers, and offloaded ones aren't there."""
    return value.is_floating_point() and value.device.type != "meta"


def _total(values: Sequence[Tensor]) -> int:
    return sum(value.numel() for value in values)


def _spread(values: Sequence[Tensor]) -> list[float]:
    total, start, found = _total(values), 0, list[float]()
    places = [(2 * number + 1) * total // (2 * COUNT) for number in range(COUNT)] if total else []
    for value in values:
        inside = [place - start for place in places if start <= place < start + value.numel()]
        found += [_weight(value, place) for place in inside]
        start += value.numel()
    return found


def _weight(value: Tensor, place: int) -> float:
    with torch.no_grad():
        index = torch.unravel_index(torch.tensor(place, device="cpu"), value.shape)
        return float(value[index])
