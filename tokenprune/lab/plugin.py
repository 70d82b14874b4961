"""The lab's own plugin: the built-in metric, runners and reporters, by the route of all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenprune.interface.metric import Metric
from tokenprune.lab.measure.metrics import Accuracy
from tokenprune.lab.studies.ray_runner import RayRunner
from tokenprune.lab.studies.runners import LocalRunner, Runner
from tokenprune.lab.studies.trackers import MlflowReporter, TrackioReporter, WandbReporter
from tokenprune.plugins.hookspecs import hookimpl

RUNNERS: tuple[type[Runner], ...] = (LocalRunner, RayRunner)
REPORTERS: tuple[type[Any], ...] = (TrackioReporter, MlflowReporter, WandbReporter)


@hookimpl
def register_metrics(register: Callable[[Metric], None]) -> None:
    """Register `accuracy`."""
    register(Accuracy())


@hookimpl
def register_runners(register: Callable[[type[Runner]], None]) -> None:
    """Register the runners; ray isn't imported before its use."""
    for runner in RUNNERS:
        register(runner)


@hookimpl
def register_reporters(register: Callable[[type[Any]], None]) -> None:
    """Register the reporters; no tracker is imported before its use."""
    for reporter in REPORTERS:
        register(reporter)
