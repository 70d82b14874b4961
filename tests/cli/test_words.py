"""Numbers, kinds of values and lists in sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tokenprune.errors import PlanError
from tokenprune.errors.words import counted, first_line, indefinite, kind_of, verdict
from tokenprune.lab.studies import load_study
from tokenprune.plan import load_plan


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("\n it broke \nat line 3", "it broke "),
        ("", "ValueError"),
        ("word " * 60, "word " * 39 + "word ..."),
        ("x" * 300, "x" * 200 + " ..."),
    ],
)
def test_what_another_library_says_is_cut_between_words(said: str, line: str) -> None:
    assert first_line(ValueError(said)) == line


def test_articles_and_counts() -> None:
    assert [indefinite(name) for name in ("int", "EncoderCache", "list")] == [
        "an int",
        "an EncoderCache",
        "a list",
    ]
    assert [counted(number, "row") for number in (0, 1, 2, 3000)] == [
        "0 rows",
        "1 row",
        "2 rows",
        "3,000 rows",
    ]
    assert counted(2, "entry", "entries") == "2 entries"
    assert verdict(1, 1, 1) == "1 row holds, 1 fails, 1 doesn't apply"
    assert verdict(2, 0, 3) == "2 rows hold, 0 fail, 3 don't apply"
    assert verdict(5, 0) == "5 rows hold, 0 fail"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, "a whole number"),
        (True, "a boolean"),
        ("x", "a text"),
        (None, "nothing"),
        (1j, "a complex"),
    ],
)
def test_kinds_of_values(value: Any, words: str) -> None:
    assert kind_of(value) == words


def test_lists_that_are_too_short_or_too_long(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("out: x\nplans: []\n")
    with pytest.raises(
        PlanError, match=r"plans: a list of at least 1 entry belongs here, got \[\]"
    ):
        load_study(study)
    stage = {"at": "encoder", "strategy": "tome", "keep": 4, "layers": [1, 2, 3]}
    with pytest.raises(PlanError, match="at most 2 entries belongs here"):
        load_plan({"stages": [stage]})
    with pytest.raises(PlanError, match="should be a mapping, got 3"):
        load_plan({"stages": [3]})
