"""Strategies by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tokenprune.errors import UnknownNameError
from tokenprune.errors.validation import plan_error
from tokenprune.interface.strategy import PruningStrategy, StrategyParams
from tokenprune.plugins.hookspecs import STRATEGIES
from tokenprune.plugins.host import host


def strategy_class(name: str, *, where: str = "") -> type[PruningStrategy[Any]]:
    """The strategy that plugins registered under a name.

    Raises:
        UnknownNameError: there is none; the nearest is suggested.
    """
    known = host().strategies
    if name in known:
        return known[name]
    remedy = host().advice(STRATEGIES, name)
    raise UnknownNameError(f"there is no strategy '{name}'.", where=where, remedy=remedy)


def strategy_params(
    strategy: type[PruningStrategy[Any]],
    params: Mapping[str, Any],
    *,
    where: str = "",
    at: str = "params",
) -> StrategyParams:
    """A strategy's params, validated by its own model.

    Raises:
        UnknownNameError: a parameter that it doesn't have; the nearest is suggested.
        PlanError: a value that it doesn't take.
    """
    try:
        return strategy.Params.model_validate(dict(params))
    except ValidationError as error:
        keys = {"": _names(strategy.Params)}
        raise plan_error(error, params, where=where, keys=keys, at=at) from error


def _names(params: type[StrategyParams]) -> list[str]:
    return [field.alias or name for name, field in params.model_fields.items()]
