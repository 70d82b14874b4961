"""Checkpoints of learned methods belong to the model that they were trained for."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from tokenprune.engine.trained import way_out
from tokenprune.errors import CheckpointError
from tokenprune.interface.loading import LoadedModel
from tokenprune.interface.trainable import TrainableStrategy
from tokenprune.lab.models import shown_name
from tokenprune.plan import Plan
from tokenprune.plugins.strategies import strategy_class, strategy_params

#: Digits of a digest that errors show.
DIGITS = 12

_DIGESTS: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def check_trained_for(loaded: LoadedModel, plan: Plan, *, but: int | None = None) -> None:
    """Refuse a plan with a checkpoint that was trained for other weights than the model's.

    Equal widths let such a checkpoint run, and what it chooses then means nothing.

    Args:
        loaded: the model.
        plan: what is to be attached.
        but: the number of a stage that isn't looked at, since it is only a start for training.

    Raises:
        CheckpointError: naming both models; or a checkpoint can't be read.
    """
    for number, stage in enumerate(plan.stages):
        kind = strategy_class(stage.strategy)
        if number != but and issubclass(kind, TrainableStrategy):
            _check(loaded, kind, stage.params, f"stages.{number}.params.checkpoint")


def _check(
    loaded: LoadedModel, kind: type[TrainableStrategy[Any]], given: dict[str, Any], where: str
) -> None:
    facts = kind.trained_for(strategy_params(kind, given))
    wanted = facts.get("model_sha256", "")
    if not wanted:
        return
    found = _digest(loaded)
    if found != wanted:
        raise CheckpointError(
            f"the checkpoint was trained for the model '{facts.get('model', 'unknown')}' "
            f"(SHA-256 {wanted[:DIGITS]}...), and this is '{shown_name(loaded.name)}' "
            f"({found[:DIGITS]}...).",
            where=where,
            remedy=way_out(kind),
        )


def _digest(loaded: LoadedModel) -> str:
    """Hashed once a model: reading all its weights takes a while."""
    if loaded.model not in _DIGESTS:
        _DIGESTS[loaded.model] = loaded.fingerprint()
    return _DIGESTS[loaded.model]
