"""The plan files under `examples/plans`: valid, in the schema, exact where they state numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.contract.cases import shipped
from tests.plan.json_schema import complaints
from tokenprune.plan import Average, dump_plan, load_plan, plan_schema
from tokenprune.plan.budget import average, decoder_keeps, removals
from tokenprune.plan.coupling import Coupling

FOLDER = Path(__file__).parents[2] / "examples" / "plans"
FILES = sorted(FOLDER.glob("*.yaml"))


def test_they_are_there() -> None:
    assert len(FILES) >= 8


def test_every_method_has_one() -> None:
    used = {stage.strategy for path in FILES for stage in load_plan(path).stages}
    assert {*shipped()} - used <= {"random", "uniform"}, "baselines need none"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_is_valid_and_survives_a_round_trip(path: Path) -> None:
    plan = load_plan(path)
    assert plan.stages
    assert plan.name
    assert load_plan(yaml.safe_load(dump_plan(plan))) == plan


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_fits_the_schema(path: Path) -> None:
    assert complaints(yaml.safe_load(path.read_text()), plan_schema()) == []


def test_what_an_extending_plan_takes_over() -> None:
    base = load_plan(FOLDER / "evoprune-128.yaml")
    child = load_plan(FOLDER / "evoprune-compact.yaml")
    assert child.positions == "compact"
    assert child.stages == base.stages


def test_numbers_in_the_comments() -> None:
    stage = load_plan(FOLDER / "explicit.yaml").stages[0]
    assert isinstance(stage.schedule, tuple)
    assert stage.keep == 96
    assert sum(removals(196, 96, 12, stage.schedule, halves=True)) == 100
    single = load_plan(FOLDER / "fastv-average.yaml").stages[0].keep
    assert isinstance(single, Average)
    assert decoder_keeps([single], [2], 576, 32) == (166,)
    coupled, later = (stage.keep for stage in load_plan(FOLDER / "vscan-64.yaml").stages)
    assert isinstance(coupled, Average)
    assert isinstance(later, float)
    assert Coupling(coupled.average, (later,), (16,), 32).arrivals(576) == 96
    assert int(96 * later) == 32
    stages = load_plan(FOLDER / "pyramid-average.yaml").stages
    found = decoder_keeps([s.keep for s in stages], [8, 16, 24], 576, 32)
    assert 319 < average(found, [8, 16, 24], 576, 32) <= 320
