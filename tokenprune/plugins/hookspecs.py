"""The hooks a plugin can implement, all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from tokenprune.interface.adapter import EncoderAdapter, MllmAdapter
    from tokenprune.interface.loading import Loader
    from tokenprune.interface.metric import Metric
    from tokenprune.interface.strategy import PruningStrategy

PROJECT = "tokenprune"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_strategies(register: Callable[[type[PruningStrategy[Any]]], None]) -> None:
    """Call `register(StrategyClass)` for every strategy of the plugin."""


@hookspec
def register_adapters(
    register: Callable[[type[EncoderAdapter] | type[MllmAdapter]], None],
) -> None:
    """Call `register(AdapterClass)` for every model family of the plugin."""


@hookspec
def register_loaders(register: Callable[[Loader], None]) -> None:
    """Call `register(loader)` for every way to load a model that `compare --model` names."""


@hookspec
def register_metrics(register: Callable[[Metric], None]) -> None:
    """Call `register(metric)` for every metric that studies can name."""


@hookspec
def register_runners(register: Callable[[type[Any]], None]) -> None:
    """Call `register(RunnerClass)` for every way to run the cells of a study.

    The class is a dataclass; its fields are the options that users may set.
    """


@hookspec
def register_reporters(register: Callable[[type[Any]], None]) -> None:
    """Call `register(ReporterClass)` for every place that a study's numbers can be sent to.

    The class is a dataclass; its fields are the options that users may set.
    """
