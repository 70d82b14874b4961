"""Metrics as plugins: found by name, checked, and counted sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.plugin import registering
from tokenprune.errors import DataError, PluginError, TokenpruneError
from tokenprune.interface.metric import Answered
from tokenprune.lab.measure.metrics import chosen_metrics, scores
from tokenprune.plugins.host import host, register_plugin

SAMPLES = [Answered("what ?", "Red", " red."), Answered("what ?", "blue", "green")]


class Length:
    """How long answers are."""

    name = "length"

    def score(self, samples: Sequence[Answered]) -> list[float]:
        return [float(len(sample.answer)) for sample in samples]


def test_accuracy_ignores_case_spaces_and_marks() -> None:
    assert scores(chosen_metrics([]), SAMPLES) == [{"accuracy": 1.0}, {"accuracy": 0.0}]


def test_a_plugins_metric_is_found_by_name_and_leaves_with_it() -> None:
    with register_plugin(registering(Length(), hook="register_metrics"), "lengths"):
        found = scores(chosen_metrics(["length", "accuracy"]), SAMPLES)
        assert found == [{"accuracy": 1.0, "length": 5.0}, {"accuracy": 0.0, "length": 5.0}]
        assert host().infos()[-1].brought == {"metrics": ("length",)}
        with pytest.raises(DataError, match="Did you mean 'length'"):
            chosen_metrics(["lenght"])
    with pytest.raises(DataError, match="no metric 'length'"):
        chosen_metrics(["length"])


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (object(), "it lacks name, score"),
        (type("Odd", (Length,), {"name": "No Name"})(), "lower-case"),
        (type("Taken", (Length,), {"name": "accuracy"})(), "is taken"),
    ],
)
def test_what_is_no_metric_is_refused(metric: object, words: str) -> None:
    with pytest.raises(PluginError, match=words):
        register_plugin(registering(metric, hook="register_metrics"), "odd")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda samples: [1.0], "1 numbers for 2"),
        (lambda samples: [1.0, float("nan")], "finite"),
        (lambda samples: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_broken_metric_is_named(given: Callable[[Any], Any], words: str) -> None:
    broken = type("Broken", (), {"name": "broken", "score": lambda self, samples: given(samples)})
    with pytest.raises(TokenpruneError, match=words) as caught:
        scores([broken()], SAMPLES)
    assert caught.value.where == "broken"
