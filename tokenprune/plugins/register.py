"""The `register` callables that hooks get: they check what they are given and note refusals."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any, get_args

from tokenprune.interface.about import About
from tokenprune.interface.adapter import Adapter, EncoderAdapter, MllmAdapter
from tokenprune.interface.placement import Placement
from tokenprune.interface.strategy import Length, PruningStrategy, StrategyParams, places

if TYPE_CHECKING:
    from tokenprune.interface.loading import Loader
    from tokenprune.interface.metric import Metric

_LOADER_PARTS = ("scheme", "usage", "load")
_METRIC_PARTS = ("name", "score")
_RUNNER_PARTS = ("name", "run")
_REPORTER_PARTS = ("name", "started", "finished", "ended")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


@dataclass
class Registered:
    """What one plugin brought, by name."""

    strategies: dict[str, type[PruningStrategy[Any]]] = field(default_factory=dict)
    encoders: dict[str, type[EncoderAdapter]] = field(default_factory=dict)
    mllms: dict[str, type[MllmAdapter]] = field(default_factory=dict)
    loaders: dict[str, Loader] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)
    runners: dict[str, type[Any]] = field(default_factory=dict)
    reporters: dict[str, type[Any]] = field(default_factory=dict)


class Registrar:
    """Collects from one plugin; what can't be taken goes to `refused` as a sentence.

    Args:
        strategies, adapters, loaders: what is there already, by name.
        metrics, runners, reporters: the same, asked for when it is needed: the built-in ones are
            heavy.
    """

    def __init__(
        self,
        strategies: Mapping[str, object],
        adapters: Mapping[str, object],
        loaders: Mapping[str, object],
        metrics: Callable[[], Mapping[str, object]],
        runners: Callable[[], Mapping[str, object]],
        reporters: Callable[[], Mapping[str, object]],
    ) -> None:
        self.registered = Registered()
        self.refused: list[str] = []
        self._strategies, self._adapters, self._loaders = strategies, adapters, loaders
        self._metrics, self._runners, self._reporters = metrics, runners, reporters

    def strategy(self, strategy: type[PruningStrategy[Any]]) -> None:
        """Take a strategy class."""
        wrong = _wrong_class(strategy, PruningStrategy) or _wrong_strategy(strategy)
        taken = {**self._strategies, **self.registered.strategies}
        if self._admit("strategy", strategy, getattr(strategy, "name", ""), wrong, taken):
            self.registered.strategies[strategy.name] = strategy

    def adapter(self, adapter: type[EncoderAdapter] | type[MllmAdapter]) -> None:
        """Take an adapter class of either kind."""
        wrong = _wrong_class(adapter, Adapter) or _wrong_adapter(adapter)
        taken = {**self._adapters, **self.registered.encoders, **self.registered.mllms}
        if not self._admit("adapter", adapter, getattr(adapter, "name", ""), wrong, taken):
            return
        if issubclass(adapter, EncoderAdapter):
            self.registered.encoders[adapter.name] = adapter
        else:
            self.registered.mllms[adapter.name] = adapter

    def loader(self, loader: Loader) -> None:
        """Take a model loader."""
        missing = [part for part in _LOADER_PARTS if not hasattr(loader, part)]
        wrong = f"it lacks {', '.join(missing)}" if missing else ""
        taken = {**self._loaders, **self.registered.loaders}
        if self._admit("loader", loader, getattr(loader, "scheme", ""), wrong, taken):
            self.registered.loaders[loader.scheme] = loader

    def metric(self, metric: Metric) -> None:
        """Take a metric."""
        missing = [part for part in _METRIC_PARTS if not hasattr(metric, part)]
        wrong = f"it lacks {', '.join(missing)}" if missing else _wrong_name(metric)
        taken = {**self._metrics(), **self.registered.metrics}
        if self._admit("metric", metric, getattr(metric, "name", ""), wrong, taken):
            self.registered.metrics[metric.name] = metric

    def runner(self, runner: type[Any]) -> None:
        """Take a runner class of studies."""
        wrong = _wrong_dataclass(runner, _RUNNER_PARTS)
        taken = {**self._runners(), **self.registered.runners}
        if self._admit("runner", runner, getattr(runner, "name", ""), wrong, taken):
            self.registered.runners[runner.name] = runner

    def reporter(self, reporter: type[Any]) -> None:
        """Take a reporter class of studies."""
        wrong = _wrong_dataclass(reporter, _REPORTER_PARTS)
        taken = {**self._reporters(), **self.registered.reporters}
        if self._admit("reporter", reporter, getattr(reporter, "name", ""), wrong, taken):
            self.registered.reporters[reporter.name] = reporter

    def _admit(
        self, kind: str, given: object, name: str, wrong: str, taken: Mapping[str, object]
    ) -> bool:
        if wrong:
            self.refused.append(f"{_called(given)} is no {kind}: {wrong}.")
        elif name in taken:
            other = _called(taken[name])
            self.refused.append(
                f"the name '{name}' is taken by {other}; {_called(given)} is left out."
            )
        else:
            return True
        return False


def _called(given: object) -> str:
    if isinstance(given, type):
        return f"{given.__module__}.{given.__qualname__}"
    return _called(type(given)) if hasattr(given, "load") else repr(given)


def _wrong_class(given: Any, base: type) -> str:
    if not (isinstance(given, type) and issubclass(given, base)):
        return f"register a subclass of {base.__name__}"
    if inspect.isabstract(given):
        return f"it lacks {', '.join(sorted(getattr(given, '__abstractmethods__', ())))}"
    return _wrong_name(given)


def _wrong_name(given: object) -> str:
    name = getattr(given, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"its name has to be lower-case letters, digits, '_', '-' and '.', not {name!r}"
    return ""


def _wrong_dataclass(given: Any, parts: tuple[str, ...]) -> str:
    """Runners and reporters are dataclasses, for their fields are what users may set."""
    if not (isinstance(given, type) and is_dataclass(given)):
        return "register a dataclass, whose fields are its options"
    missing = [part for part in parts if not hasattr(given, part)]
    return f"it lacks {', '.join(missing)}" if missing else _wrong_name(given)


def _wrong_strategy(given: type[PruningStrategy[Any]]) -> str:
    stages = getattr(given, "stages", ())
    if not stages or not all(isinstance(place, Placement) for place in stages):
        return f"its stages are {stages!r}; write placements, such as (PreLlm(), Decoder(layer=2))"
    if len({place.at for place in stages}) < len(stages):
        return f"its stages name a place twice: {', '.join(places(given))}"
    if given.length not in get_args(Length):
        return f"its length is {given.length!r}, known are {', '.join(get_args(Length))}"
    if not isinstance(given.about, About):
        return "its about is no About(summary, paper, licence, ours)"
    params = given.Params
    if not (isinstance(params, type) and issubclass(params, StrategyParams)):
        return "its Params is no subclass of StrategyParams"
    return ""


def _wrong_adapter(given: type[Adapter]) -> str:
    if not issubclass(given, EncoderAdapter | MllmAdapter):
        return "subclass EncoderAdapter or MllmAdapter"
    claims = getattr(given, "claims", None)
    if not isinstance(claims, tuple) or not all(isinstance(claim, str) for claim in claims):
        return "its claims have to be a tuple of full class names"
    return ""
