"""The benchmark behind the reproduction page, on a tiny random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import reproduction, silent_cap
from benchmarks.answering import Journal
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
    assert apart == {"8": 0.25, "4": 0.0}, "budgets aren't pooled"
    assert found[0]["difference"]["8"]["low"] == 0
    assert list(found[1]["difference"]) == ["8"]


def test_steps_are_those_that_ran(measured: dict[str, Any]) -> None:
    """By hand: `skip` takes two of four blocks: 9 of 36 and 9 of 27, which leave room."""
    (steps,) = {
        tuple(budgets["18"]["steps"].items())
        for name, budgets in measured["rows"].items()
        if name in ("evoprune", "without diversity")
    }
    assert dict(steps) == {"steps": 2, "protecting": 2, "full": 2}
    assert measured["rows"]["without attention"]["18"]["steps"]["protecting"] == 0
    assert "steps" not in measured["rows"]["tome"]["18"]


@pytest.mark.parametrize(
    ("steps", "params", "protecting", "full"),
    [
        ([(100, 10), (90, 40), (50, 25)], {}, 2, 1),
        ([(100, 10), (90, 40), (50, 25)], {"attention": False}, 0, 0),
        ([(100, 10)], {"critical_token_ratio": 0.0}, 0, 0),
    ],
)
def test_a_step_protects_what_it_has_room_for(
    steps: Any, params: dict[str, Any], protecting: int, full: int
) -> None:
    """min(CTR T, T - 2 r): 25 of 100; 10 of 90, where CTR says 22; none where a step halves."""
    found = reproduction.regime(steps, params)
    assert found == {"steps": len(steps), "protecting": protecting, "full": full}


def test_the_silent_cap_halves_at_most_and_says_what_is_left() -> None:
    for schedule in silent_cap.SCHEDULES.values():
        for target in (64, 16, 8):
            present = 196
            for amount in silent_cap.silently_capped(silent_cap.Encoder(196, 11), target, schedule):
                assert 0 <= amount <= present // 2
                present -= amount
            assert present >= target
    assert silent_cap.in_the_paper()["evoprune"] == {"64": 64, "32": 41, "16": 35}
    stage = silent_cap.capped_stages(silent_cap.Encoder(8, 3), 1)["mean"]
    # 3 of 8, 3 rather than 2 of 5, 1 of 3: the last step may take no more than half
    assert stage == {"strategy": "evoprune", "schedule": [3, 2, 1], "keep": 2}


def test_the_capped_schedules_run_and_are_paired(task: VqaTask) -> None:
    variants = {"evoprune": reproduction.VARIANTS["evoprune"]}
    model: Any = task.model
    cap = silent_cap.Encoder(36, model.model.vision_tower.config.num_hidden_layers)
    found = reproduction.reproduce(task, variants, (9,), cap=cap)["silent_cap"]
    assert {key for row in found["rows"].values() for key in row} == {"8"}
    assert "exact" not in found["rows"]["evoprune"]["8"], "8 wasn't among the budgets"
    found = reproduction.capped(
        task, {"evoprune": {8: np.ones(6)}}, cap, Bootstrap(range(6)), Journal(None)
    )
    cell = found["rows"]["evoprune"]["8"]
    assert cell["left"] >= 8
    assert cell["above_exact"]["value"] == pytest.approx(
        cell["accuracy"]["value"] - cell["exact"]["value"]
    )
    assert set(found["rows"]) == set(silent_cap.SCHEDULES)


def test_a_run_that_was_stopped_goes_on(task: VqaTask, tmp_path: Path) -> None:
    inputs = [task.inputs(batch) for batch in task.batches]
    stage = {"strategy": "tome", "schedule": "mean", "keep": 18}
    first = Journal(tmp_path / "j", "one").answered(task, inputs, stage)
    again = Journal(tmp_path / "j", "one").answered(task, [], stage)
    assert (again.right.tolist(), again.steps) == (first.right.tolist(), first.steps)
    with pytest.raises(KeyError, match="llm"):  # nothing is known, so it runs, without inputs
        Journal(tmp_path / "j", "another").answered(task, [], stage)
