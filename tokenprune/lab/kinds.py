"""Kinds of things that plugins bring to the lab, each with its hook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenprune.interface.loading import Loader
from tokenprune.interface.metric import Metric
from tokenprune.interface.serving import Server
from tokenprune.plugins.hookspecs import hookspec
from tokenprune.plugins.kinds import Kind, lacking, wrong_dataclass, wrong_name


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


@hookspec
def register_servers(register: Callable[[Server], None]) -> None:
    """Call `register(server)` for every serving engine that can run plans."""


def _wrong_loader(given: object) -> str:
    return lacking(given, "scheme", "usage", "load")


def _wrong_metric(given: object) -> str:
    return lacking(given, "name", "score") or wrong_name(given)


def _wrong_runner(given: object) -> str:
    return wrong_dataclass(given, "name", "run")


def _wrong_server(given: object) -> str:
    return lacking(given, "name", "arguments", "check") or wrong_name(given)


def _wrong_reporter(given: object) -> str:
    return wrong_dataclass(given, "name", "started", "finished", "ended")


LOADERS: Kind[Loader] = Kind("loader", register_loaders, _wrong_loader, lambda it: it.scheme)
METRICS: Kind[Metric] = Kind("metric", register_metrics, _wrong_metric)
RUNNERS: Kind[type[Any]] = Kind("runner", register_runners, _wrong_runner)
REPORTERS: Kind[type[Any]] = Kind("reporter", register_reporters, _wrong_reporter)
SERVERS: Kind[Server] = Kind("server", register_servers, _wrong_server)
LAB: tuple[Kind[Any], ...] = (LOADERS, METRICS, RUNNERS, REPORTERS, SERVERS)
