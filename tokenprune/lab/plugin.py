"""The lab's own plugin: its kinds, the built-in metrics, runners and reporters.

Modules of the lab are imported when the host asks for things of their kind, not before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenprune.interface.metric import Metric
from tokenprune.lab.kinds import LAB
from tokenprune.plugins.hookspecs import hookimpl
from tokenprune.plugins.kinds import Kind
from tokenprune.testing.kinds import TINY_MODELS


@hookimpl
def register_kinds(register: Callable[[Kind[Any]], None]) -> None:
    """Register the kinds of things that the lab and the test kit take from plugins."""
    for kind in (*LAB, TINY_MODELS):
        register(kind)


@hookimpl
def register_metrics(register: Callable[[Metric], None]) -> None:
    """Register `accuracy` and `vqa_accuracy`."""
    from tokenprune.lab.measure.metrics import Accuracy
    from tokenprune.lab.measure.vqa import VqaAccuracy

    for metric in (Accuracy(), VqaAccuracy()):
        register(metric)


@hookimpl
def register_runners(register: Callable[[type[Any]], None]) -> None:
    """Register the runners; ray isn't imported before its use."""
    from tokenprune.lab.studies.ray_runner import RayRunner
    from tokenprune.lab.studies.runners import LocalRunner

    for runner in (LocalRunner, RayRunner):
        register(runner)


@hookimpl
def register_reporters(register: Callable[[type[Any]], None]) -> None:
    """Register the reporters; no tracker is imported before its use."""
    from tokenprune.lab.studies.trackers import MlflowReporter, TrackioReporter, WandbReporter

    for reporter in (TrackioReporter, MlflowReporter, WandbReporter):
        register(reporter)
