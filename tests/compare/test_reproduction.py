"""The benchmark behind the reproduction page, on a tiny random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import reproduction
from benchmarks.paper_evoprune import ORDERINGS, TOME, Ordering
from tokenprune.interface.loading import LoadedMllm
from tokenprune.lab.measure.statistics import Bootstrap
from tokenprune.lab.measure.task import VqaTask
from tokenprune.lab.models import load_model, load_options
from tokenprune.reference.heldout import HELDOUT_SEED

KEEPS = (18, 9)


@pytest.fixture(scope="module")
def task(llava_folder: Path) -> VqaTask:
    loaded = load_model(str(llava_folder), load_options(None, None, None))
    assert isinstance(loaded, LoadedMllm)
    return VqaTask(loaded, reproduction.questions(6), 3)


@pytest.fixture(scope="module")
def measured(task: VqaTask) -> dict[str, Any]:
    return reproduction.reproduce(task, keeps=KEEPS)


def test_one_question_about_each_picture_of_a_seed_of_its_own() -> None:
    found = reproduction.questions(4)
    assert [question.image_id for question in found] == [0, 1, 2, 3]
    assert [q.text for q in found] == [q.text for q in reproduction.questions(4)]
    assert reproduction.SEED != HELDOUT_SEED


def test_every_variant_answers_every_question_at_every_budget(measured: dict[str, Any]) -> None:
    assert not measured["refused"]
    assert set(measured["rows"]) == set(reproduction.VARIANTS)
    for budgets in measured["rows"].values():
        assert list(budgets) == ["18", "9"]
        for cell in budgets.values():
            right = [int(value) for value in cell["right"]]
            assert len(right) == 6
            assert cell["accuracy"]["value"] == pytest.approx(sum(right) / 6)
    wanted = [*ORDERINGS, *TOME]
    assert len(measured["orderings"] + measured["tome"]) == len(wanted)
    assert all(row["above_full"]["value"] == 0 for row in measured["rows"]["evoprune"].values())


def test_variants_differ_as_the_paper_says() -> None:
    made = reproduction.VARIANTS
    assert made["evoprune"] == {"strategy": "evoprune", "schedule": "skip", "params": {}}
    assert made["without attention"]["params"] == {"attention": False}
    assert made["without diversity"]["params"] == {"diversity_weight": 0.0}
    only = made["similarity only"]["params"]
    assert only == {"attention": False, "diversity_weight": 0.0}
    assert {made[name]["schedule"] for name in ("evoprune", *reproduction.SCHEDULES)} == {
        "skip", "mean", "first", "last", "increasing", "decreasing"
    }  # fmt: skip


def test_a_budget_that_a_schedule_cant_reach_is_said(task: VqaTask) -> None:
    variants = {name: reproduction.VARIANTS[name] for name in ("evoprune", "tome")}
    found = reproduction.reproduce(task, variants, (9, 4))
    assert set(found["refused"]) == {"evoprune at 4"}
    assert list(found["rows"]["tome"]) == ["9"], "no row without the full method beside it"


def test_differences_are_paired() -> None:
    first, second = np.array([1.0, 1, 0, 1]), np.array([1.0, 0, 0, 1])
    rights = {"a": {8: first, 4: second}, "b": {8: second, 4: second}, "c": {8: first}}
    asked = (Ordering("a", "b", ""), Ordering("a", "c", ""), Ordering("a", "d", ""))
    found = reproduction.orderings(asked, rights, Bootstrap([0, 1, 2, 3]))
    assert [row["worse"] for row in found] == ["b", "c"]
    apart = {key: value["value"] for key, value in found[0]["difference"].items()}
    assert apart == {"8": 0.25, "4": 0.0, "mean": 0.125}
    assert found[0]["difference"]["8"]["low"] == 0
    assert list(found[1]["difference"]) == ["8", "mean"]
