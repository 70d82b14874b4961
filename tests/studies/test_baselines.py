"""Plans get a random plan that is fair to them, once, where the study has none, and it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests import models
from tokenprune.cli import app
from tokenprune.lab.report import html, read_results
from tokenprune.lab.studies import load_study, run_study
from tokenprune.lab.studies.baselines import counterpart, missing_baselines
from tokenprune.lab.studies.summary import summarise
from tokenprune.plan import Plan, load_plan, positions_of


def decoder(strategy: str = "fastv", **keys: Any) -> dict[str, Any]:
    return {"at": "decoder", "strategy": strategy, "keep": 8, **keys}


def plan(*stages: dict[str, Any], **keys: Any) -> Plan:
    return load_plan({"stages": [*stages], **keys})


PRE = {"at": "pre_llm", "strategy": "fopru", "keep": 16}


def added(*plans: Plan) -> list[tuple[str, list[tuple[Any, ...]]]]:
    found = missing_baselines(models.llava_clip(), [(str(n), one) for n, one in enumerate(plans)])
    return [
        (name, [(s.at, s.strategy, s.layer, s.keep) for s in one.stages]) for name, one in found
    ]


def test_methods_at_one_place_share_one_random_plan() -> None:
    found = added(plan(decoder(layer=1)), plan(decoder("uniform", layer=1)))
    assert found == [("random decoder 1 keep 8", [("decoder", "random", 1, 8)])]


def test_the_strategys_own_layer_is_written_out() -> None:
    (one,) = added(plan(decoder()))
    assert one[1] == [("decoder", "random", 2, 8)]


def test_every_stage_has_its_counterpart() -> None:
    (one,) = added(plan(PRE, decoder(layer=1, keep=0.5)))
    assert one == (
        "random pre_llm keep 16, decoder 1 keep 0.5",
        [("pre_llm", "random", None, 16), ("decoder", "random", 1, 0.5)],
    )


def test_none_is_added_where_the_study_has_it_or_nothing_is_inside() -> None:
    assert added(plan(decoder(layer=2)), plan(decoder("random", layer=2))) == []
    assert added(plan(PRE)) == []
    assert missing_baselines(models.clip_vision(), [("a", plan(PRE))]) == []
    other = plan(decoder("random", layer=2), positions="compact")
    assert len(added(plan(decoder(layer=2)), other)) == 1, "position ids make another baseline"


def test_a_method_that_chooses_its_position_ids_gets_a_random_plan_with_them() -> None:
    methods = [plan(PRE | {"strategy": name}) for name in ("random", "fopru", "vscan")]
    assert [positions_of(one) for one in methods] == ["original", "original", "compact"]
    (found,) = missing_baselines(
        models.llava_clip(), [(one.stages[0].strategy, one) for one in methods]
    )
    assert found[0] == "random pre_llm keep 16"
    assert found[1].positions == "compact"
    assert found[1].stages == methods[0].stages
    assert added(*methods[1:]) == [], "who lists no random plan asks for no comparison with it"


@pytest.mark.parametrize(
    ("stage", "layers"),
    [
        ({"at": "decoder", "strategy": "pyramiddrop", "keep": 8}, 8),
        ({"at": "decoder", "strategy": "pyramiddrop", "keep": {"average": 8}}, 8),
    ],
)
def test_what_a_plan_cant_say_has_no_counterpart(stage: dict[str, Any], layers: int) -> None:
    assert counterpart(plan(stage), layers) is None


def test_steps_by_share_are_written_as_stages() -> None:
    found = counterpart(plan({"at": "decoder", "strategy": "pyramiddrop"}), 8)
    assert found is not None
    assert [stage.keep for stage in found.stages] == [0.5] * 3
    assert [stage.layer for stage in found.stages] == sorted({s.layer for s in found.stages})


@pytest.fixture
def inside(study: Path) -> Path:
    """The study of the folder, with one plan inside the LLM and one in front of it."""
    data = yaml.safe_load(study.read_text())
    data["plans"] = [{"name": "fastv", "plan": {"stages": [decoder(layer=1)]}}]
    study.write_text(yaml.safe_dump(data))
    return study


def test_a_study_runs_it_compares_with_it_and_says_so(inside: Path) -> None:
    runner = CliRunner()
    result = runner.invoke(app, ["study", str(inside)])
    assert result.exit_code == 0, result.output
    said = "added by the study, since plans are compared with random at the same layers of the LLM"
    assert said in " ".join(result.output.split())
    assert "random decoder 1 keep 8" in result.output
    results = read_results(inside.parent / "records")
    (group,) = summarise(results.records)
    assert [row.name for row in group.rows] == ["dense", "fastv", "random decoder 1 keep 8"]
    assert group.added == ("random decoder 1 keep 8",)
    assert group.rows[1].versus_random is not None
    assert "Added by the study, since plans are compared" in html(results, [group])
    assert run_study(load_study(inside)).ran == []


def test_a_study_can_do_without(inside: Path) -> None:
    data = yaml.safe_load(inside.read_text()) | {"add_random": False}
    inside.write_text(yaml.safe_dump(data))
    done = run_study(load_study(inside))
    assert (len(done.records), done.added) == (2, [])
