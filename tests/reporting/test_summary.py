"""What is concluded from records."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from tests.reporting.made import SIX, failed, record
from tokenprune.lab.judge.warnings import gathered
from tokenprune.lab.measure.statistics import Bootstrap, Interval
from tokenprune.lab.studies.store import Record
from tokenprune.lab.studies.summary import lines, summarise

WORSE = (False, False, False, True, False, False)


def test_rows_are_paired_with_dense_and_with_random_at_the_same_budget() -> None:
    group = summarise(
        [
            record("ours", "uniform", WORSE, time=1.5),
            record("random 8", "random", SIX),
            record("random 4", "random", WORSE, keep=4),
            record("dense", None, (True,) * 6, time=1.0),
        ]
    )[0]
    dense, ours, random, _ = group.rows
    assert [row.name for row in group.rows][:2] == ["dense", "ours"]
    assert dense.difference is not None
    assert dense.difference.value == 0
    assert ours.difference is not None
    assert ours.difference.value == pytest.approx(1 / 6 - 1)
    assert ours.versus_random is not None
    assert ours.versus_random.value == pytest.approx(1 / 6 - 4 / 6)
    assert random.versus_random is None
    assert ours.agreement == pytest.approx(1 / 6)
    assert ours.mcnemar == pytest.approx(2 * 0.5**5)
    assert ours.metrics["length"].value == pytest.approx(3 - 1 / 6)
    assert "accuracy" not in ours.metrics
    said = {what: names for names, what in gathered(group.rows)}
    slower = "slower than the dense model, though times of 2 batches have no 95 % interval"
    assert said[slower] == "ours"
    assert "ours" in said["worse than keeping random tokens"]
    assert any("too wide" in what for what in ours.warnings)
    assert any("up to 50% the other way" in what for what in dense.warnings)


def test_random_is_the_mean_over_its_seeds() -> None:
    seeds = [
        record(f"random seed={seed}", "random", right, plan=seeded("random", seed))
        for seed, right in enumerate((SIX, WORSE, (True,) * 6))
    ]
    other = record("random 4", "random", WORSE, keep=4)
    group = summarise([record("dense", None), *seeds, other, record("ours", "uniform", SIX)])[0]
    ours = group.rows[-1]
    assert ours.seeds == 3
    assert ours.versus_random is not None
    assert ours.versus_random.value == pytest.approx(4 / 6 - (4 / 6 + 1 / 6 + 1) / 3)
    (random,) = group.repeated
    assert random.names == tuple(f"random seed={seed}" for seed in range(3))
    assert random.title == "random"
    assert random.mean == pytest.approx((4 / 6 + 1 / 6 + 1) / 3)
    assert random.deviation == pytest.approx(statistics.stdev([4 / 6, 1 / 6, 1.0]))


def seeded(strategy: str, seed: int) -> dict[str, Any]:
    stage = {"at": "pre_llm", "strategy": strategy, "keep": 8}
    return {"schema_version": 1, "seed": seed, "stages": [stage]}


def test_random_at_as_many_tokens_stands_in_where_places_differ() -> None:
    other = {"stages": [{"at": "decoder", "layer": 2, "strategy": "fastv", "keep": 2}]}
    rows = summarise([record("random", "random"), record("far", "fastv", plan=other)])[0].rows
    assert rows[1].versus_random is not None
    far = record("few", "fastv", keep=4)
    assert summarise([record("random", "random"), far])[0].rows[1].versus_random is None


def test_only_cells_that_share_everything_else_are_compared() -> None:
    one, two = record("dense", None), record("dense", None, environment={"processor": "other"})
    assert len(summarise([one, two])) == 2


def test_failed_cells_stand_beside_the_others() -> None:
    group = summarise([record("dense", None), failed("ours", "out of memory")])[0]
    assert group.failed == {"ours": "out of memory"}
    assert [row.name for row in group.rows] == ["dense"]
    assert summarise([failed("ours", "out of memory")])[0].rows == ()


def test_cells_of_one_name_keep_their_own_plans() -> None:
    made = [record("dense", None), record("ours", "uniform"), record("ours", "uniform", keep=4)]
    found = lines(summarise([*made, failed("ours", "out of memory")]))
    keeps = [one.planned.plan.stages[0].keep for one in found[1:3]]
    assert keeps == [8, 4]
    assert [one.planned.plan.stages[0].strategy for one in found[1:]] == ["uniform"] * 2 + ["fastv"]


def test_intervals_are_those_of_the_studys_seed() -> None:
    right = [bool(number % 3) for number in range(60)]
    groups = [number * number % 23 for number in range(60)]  # of several sizes

    def interval(seed: int) -> Interval:
        made = record("dense", None, settings={"batch_size": 3, "seed": seed})
        samples = [
            {**made.result["samples"][0], "group": group, "right": one}
            for group, one in zip(groups, right, strict=True)
        ]
        done = Record(made.identity, "done", {**made.result, "samples": samples})
        return summarise([done])[0].rows[0].accuracy

    for seed in (0, 5):
        assert interval(seed) == Bootstrap(groups, seed).mean(right)
    assert interval(0) != interval(5)
