"""Every kind of bad input, and what its error says."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.engine.stages import build_strategy
from tokenprune.errors import PlanError, UnknownNameError
from tokenprune.errors.names import near_names, suggestion
from tokenprune.plan import Plan, load_plan
from tokenprune.plan.model import StagePlan
from tokenprune.plan.read import parse
from tokenprune.plugins.strategies import strategy_class

STAGE: dict[str, Any] = {"at": "encoder", "strategy": "toy_merge", "keep": 128}
DECODER: dict[str, Any] = {"at": "decoder", "strategy": "toy_any", "keep": 0.5, "layer": 2}


@pytest.mark.parametrize(
    ("plan", "place", "near"),
    [
        ({"stage": []}, "stage", "stages"),
        ({"stages": [{**STAGE, "kep": 3}]}, "stages.0.kep", "keep"),
        ({"stages": [STAGE, {**DECODER, "layr": 3}]}, "stages.1.layr", "layer"),
        ({"stages": [{**DECODER, "keep": {"averge": 3}}]}, "stages.0.keep.averge", "average"),
        ({"stages": [{**STAGE, "schedule": "skp"}]}, "stages.0.schedule", "skip"),
        ({"stages": [{**STAGE, "schedule": {"nam": "skip"}}]}, "stages.0.schedule.nam", "name"),
        ({"stages": [{**STAGE, "schedule": {"name": "firs"}}]}, "stages.0.schedule.name", "first"),
        ({"stages": [{**STAGE, "at": "encode"}]}, "stages.0.at", "encoder"),
        ({"positions": "compacted"}, "positions", "compact"),
        ({"stages": [{**STAGE, "strategy": "toy_marge"}]}, "stages.0.strategy", "toy_merge"),
        ({"stages": [{**STAGE, "params": {"wieght": 1}}]}, "stages.0.params.wieght", "weight"),
        ({"stages": [{**STAGE, "params": {"mode": "fat"}}]}, "stages.0.params.mode", "far"),
    ],
)
def test_unknown_names_suggest_the_nearest(plan: dict[str, Any], place: str, near: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        load_plan(plan)
    assert caught.value.where == place
    assert f"Did you mean '{near}'?" in caught.value.remedy


def test_names_that_are_nearly_as_near_are_suggested_too() -> None:
    known = ("otprune", "fopru", "evoprune", "tome")
    assert suggestion("foprune", known).startswith("Did you mean 'otprune', 'fopru' or 'evoprune'?")
    assert suggestion("tomee", known).startswith("Did you mean 'tome'?")
    assert suggestion("fopru_", known).startswith("Did you mean 'fopru'?")
    assert near_names("FoPru", known) == ["fopru"]  # what is there but for its case is meant alone
    assert near_names("nothing like it", known) == []


@pytest.mark.parametrize(
    ("plan", "place", "message"),
    [
        ({"schema_version": 2}, "schema_version", "should be 1, got 2"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"seed": True}, "seed", "valid integer"),
        ({"stages": {"at": "encoder"}}, "stages", "valid list"),
        ({"stages": ["evoprune"]}, "stages.0", "should be a mapping"),
        ({"stages": [{"at": "encoder", "keep": 3}]}, "stages.0.strategy", "missing"),
        ({"stages": [{**STAGE, "keep": 0}]}, "stages.0.keep", "got 0"),
        ({"stages": [{**STAGE, "keep": 0.0}]}, "stages.0.keep", "greater than 0"),
        ({"stages": [{**STAGE, "keep": 128.0}]}, "stages.0.keep", "got 128.0"),
        ({"stages": [{**STAGE, "keep": float("nan")}]}, "stages.0.keep", "finite"),
        ({"stages": [{**STAGE, "keep": True}]}, "stages.0.keep", "write tokens"),
        ({"stages": [{**STAGE, "keep": "half"}]}, "stages.0.keep", "write tokens"),
        ({"stages": [{**STAGE, "keep": None}]}, "stages.0.keep", "write tokens"),
        ({"stages": [{**STAGE, "keep": {"average": 9}}]}, "stages.0", "can't be kept at 'encoder'"),
        ({"stages": [{**STAGE, "schedule": 3}]}, "stages.0.schedule", "schedule's name"),
        ({"stages": [{**STAGE, "schedule": [3, -1]}]}, "stages.0.schedule.1", "got -1"),
        (
            {"stages": [{**STAGE, "schedule": {"name": "mean", "blocks": 2}}]},
            "stages.0.schedule",
            "'blocks' belongs to",
        ),
        (
            {"stages": [{**STAGE, "schedule": {"name": "last", "power": 2}}]},
            "stages.0.schedule",
            "'power' belongs to",
        ),
        ({"stages": [{**STAGE, "layers": [5, 2]}]}, "stages.0.layers", "comes after the last"),
        ({"stages": [{**STAGE, "layers": [1, 2, 3]}]}, "stages.0.layers", "at most 2"),
        ({"stages": [{**STAGE, "layer": -1}]}, "stages.0.layer", "got -1"),
        ({"stages": [{**STAGE, "layer": 1, "layers": [1, 2]}]}, "stages.0", "names one block"),
        ({"stages": [{**DECODER, "schedule": "mean"}]}, "stages.0", "no meaning at 'decoder'"),
        (
            {"stages": [{"at": "pre_llm", "strategy": "toy_any", "keep": 3, "layer": 2}]},
            "stages.0",
            "no meaning at 'pre_llm'",
        ),
        ({"stages": [DECODER, STAGE]}, "", "order in which tokens meet them"),
        ({"stages": [DECODER, {**DECODER, "layer": 1}]}, "stages.1", "begins at layer 1"),
        (
            {"stages": [{**DECODER, "keep": {"average": 9}}, {**DECODER, "layer": 4}]},
            "",
            "come after those with a fixed one",
        ),
        (
            {
                "stages": [
                    {**DECODER, "keep": {"average": 9}},
                    {**DECODER, "keep": {"average": 8}, "layer": 4},
                ]
            },
            "",
            "share one average",
        ),
        ({"stages": [{**STAGE, "at": "decoder", "layer": 1}]}, "stages.0.at", "can't act at"),
        (
            {"stages": [{**STAGE, "strategy": "toy_once", "schedule": "mean"}]},
            "stages.0.schedule",
            "has no schedule",
        ),
        (
            {"stages": [{"at": "decoder", "strategy": "toy_any", "keep": 3}]},
            "stages.0.layer",
            "no layer of its own",
        ),
        (
            {"stages": [{**STAGE, "layers": [0, 5]}, {**STAGE, "layers": [5, 8]}]},
            "stages.1",
            "begins at block 5",
        ),
        (
            {"stages": [{**STAGE, "layers": [0, 5]}, {**STAGE, "strategy": "toy_once"}]},
            "stages.1",
            "begins at block 3",
        ),
        ({"stages": [{**STAGE, "params": {"weight": 0}}]}, "stages.0.params.weight", "got 0"),
        (
            {"stages": [{**STAGE, "params": {"inner": {"deep": 1}}}]},
            "stages.0.params.inner.deep",
            "",
        ),
        ({"stages": [{**STAGE, "params": [1]}]}, "stages.0.params", "should be a mapping"),
        ({"extends": 3}, "plan: extends", "names one file"),
        ({"extends": ""}, "plan: extends", "names one file"),
        ({1: 2}, "plan", "keys are words"),
    ],
)
def test_each_problem_has_a_place_and_a_reason(
    plan: dict[str, Any], place: str, message: str
) -> None:
    with pytest.raises(PlanError) as caught:
        load_plan(plan)
    assert caught.value.where == place
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("plan", "remedy"),
    [
        ({"schema_version": 0}, "of which this release reads 1, not of your plan"),
        ({"stages": {"at": "encoder"}}, "Begin every entry of the list with '- '"),
        ({"stages": [{**STAGE, "keep": 128.0}]}, "without a decimal point"),
    ],
)
def test_what_was_probably_meant_is_said(plan: dict[str, Any], remedy: str) -> None:
    with pytest.raises(PlanError) as error:
        load_plan(plan)
    assert remedy in error.value.remedy


def test_the_branches_of_a_union_are_one_problem() -> None:
    with pytest.raises(UnknownNameError) as caught:
        load_plan({"stages": [{**STAGE, "params": {"width": "aut"}}]})
    assert caught.value.where == "stages.0.params.width"
    assert "Did you mean 'auto'?" in str(caught.value)


def test_several_problems_are_all_told_misspelt_keys_first() -> None:
    with pytest.raises(UnknownNameError) as caught:
        load_plan({"seed": -1, "stages": [{"at": "encoder", "stratgy": "toy_merge", "keep": 3}]})
    assert caught.value.where == "stages.0.stratgy"
    assert "Also seed:" in str(caught.value)
    assert "is missing" not in str(caught.value), "the misspelt key is that one"


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("stages:\n  - at: encoder\n   keep: 3\n", "line 3, column 4", "malformed YAML"),
        ("stages: [1, 2\n", "line 2, column 1", "malformed YAML"),
        ("a: \tb: c\n", "line 1", "malformed YAML"),
        ("seed: 1\nname: x\nseed: 2\n", "line 3, column 1", "'seed' stands here twice"),
        ("seed: !!python/object:os.system 1\n", "line 1, column 7", "malformed YAML"),
        ("? [a, b]\n: 1\n", "line 1", "malformed YAML"),
        ("a: \x00\n", "", "malformed YAML"),
        ("name: 2020-13-45\n", "", "malformed YAML"),
        ("seed: !!int x\n", "", "malformed YAML"),
        ("seed: !!map 3\n", "line 1, column 7", "malformed YAML"),
        ("- 1\n", "", "this is a list"),
        ("", "", "this is nothing"),
        ("just words\n", "", "this is a text"),
    ],
)
def test_malformed_files(tmp_path: Path, text: str, place: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(PlanError) as caught:
        load_plan(path)
    assert str(path) in caught.value.where
    assert place in caught.value.where
    assert message in caught.value.message


def test_anchors_and_merge_keys_are_yaml_too(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        "stages:\n"
        "  - &one {at: decoder, strategy: toy_any, layer: 2, keep: 0.5}\n"
        "  - {<<: *one, layer: 4}\n"
    )
    assert [stage.layer for stage in load_plan(path).stages] == [2, 4]
    path.write_text("stages: &again [*again]\n")
    with pytest.raises(PlanError, match="more than 50 levels"):
        load_plan(path)


yaml_like = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["stages", "at", "keep", "strategy", "schedule", "params", "x"]), inner
        ),
    ),
    max_leaves=8,
)


@given(stage=st.dictionaries(st.sampled_from([*StagePlan.model_fields, "kep"]), yaml_like))
def test_nothing_but_plan_errors_comes_out(stage: dict[str, Any]) -> None:
    for source in (stage, {"stages": stage}, {"stages": [{**STAGE, **stage}]}):
        try:
            load_plan(source)
        except PlanError as error:
            assert str(error)  # noqa: PT017  an error is as welcome as a plan


@given(text=st.text(alphabet="a:-[]{}&*!?|>%@`'\"#,\n\t 01", max_size=40))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        parse(text, "here")
    except PlanError as error:
        assert error.where.startswith("here")  # noqa: PT017


def test_errors_name_the_files_that_a_plan_is_made_of(tmp_path: Path) -> None:
    base, child = tmp_path / "base.yaml", tmp_path / "child.yaml"
    base.write_text("sed: 1\n")
    child.write_text("extends: base.yaml\n")
    with pytest.raises(UnknownNameError) as caught:
        load_plan(child)
    assert caught.value.where == f"{child}, extending {base.resolve()}: sed"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("seed: 1\n")
    with pytest.raises(PlanError, match=r"Did you mean '.*plan\.yaml'"):
        load_plan(tmp_path / "plna.yaml")
    with pytest.raises(PlanError, match="can't be read"):
        load_plan(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    with pytest.raises(PlanError, match="can't be read"):
        load_plan(tmp_path / "latin.yaml")
    (tmp_path / "m").mkdir()
    (tmp_path / "child.yaml").write_text("extends: m/missing.yaml\n")
    match = r"child\.yaml: extends: .*missing\.yaml: there is no such file\.$"
    for near in ("m/d9.yaml", "missing.yaml", "m/missing.py"):  # not alike, elsewhere, no plan
        (tmp_path / near).write_text("seed: 1\n")
    with pytest.raises(PlanError, match=match):
        load_plan(tmp_path / "child.yaml")
    (tmp_path / "m" / "misssing.yml").write_text("seed: 1\n")
    with pytest.raises(PlanError, match=r"Did you mean '.*m/misssing\.yml'"):
        load_plan(tmp_path / "child.yaml")
    with pytest.raises(PlanError, match="a plan is a file or a mapping, not an object of type int"):
        load_plan(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("fopru", "stages: [{at: pre_llm, strategy: fopru, keep: 0.5}]"),
        ({"at": "pre_llm", "strategy": "fopru", "keep": 8}, "this is a stage"),
        ([STAGE], "a dict with the list 'stages'"),
    ],
)
def test_what_is_less_than_a_plan_is_told_what_a_plan_is(given: Any, said: str) -> None:
    with pytest.raises(PlanError) as caught:
        load_plan(given)
    assert said in str(caught.value)


def test_a_file_that_is_called_like_a_strategy_is_read(tmp_path: Path) -> None:
    (tmp_path / "fopru").write_text("stages: []\n")
    with contextlib.chdir(tmp_path):
        assert load_plan("fopru").stages == ()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.0.keep", "sets nothing"),
        ("=3", "sets nothing"),
        ("stages..keep=3", "part of the path is empty"),
        ("stages.1.keep=3", "no element '1'"),
        ("stages.x.keep=3", "no element 'x'"),
        ("stages.0.keep.tokens=3", "'stages.0.keep' holds no keys"),
        ("stages.0.keep=[1", "malformed YAML"),
    ],
)
def test_bad_overrides(override: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        load_plan({"stages": [STAGE]}, overrides=[override])


def test_a_misspelt_override_suggests_the_nearest_key() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'keep'"):
        load_plan({"stages": [STAGE]}, overrides=["stages.0.kep=64"])
    with pytest.raises(UnknownNameError, match="Did you mean 'weight'"):
        load_plan({"stages": [STAGE]}, overrides={"stages.0.params.wight": 2})


def test_a_plan_made_by_hand_is_checked_too() -> None:
    plan = Plan.model_validate({"stages": [{**STAGE, "strategy": "nobody_knows"}]})
    with pytest.raises(UnknownNameError, match=r"stages\.0\.strategy: there is no strategy"):
        load_plan(plan)


def test_build_strategy() -> None:
    stage = StagePlan(at="encoder", strategy="toy_merge", keep=3, params={"weight": 2})
    built = build_strategy(stage)
    assert type(built) is strategy_class("toy_merge")
    assert built.params.weight == 2.0
    with pytest.raises(UnknownNameError, match=r"strategy 'toy_merge': params\.wight"):
        build_strategy(stage.model_copy(update={"params": {"wight": 2}}))


@pytest.mark.parametrize(
    ("data", "said", "unsaid"),
    [
        ({"keep": {"avrage": 3}}, "unknown key 'avrage'. Did you mean 'average'?", "is missing"),
        ({"stratgy": "fopru"}, "unknown key 'stratgy'. Did you mean 'strategy'?", "is missing"),
    ],
)
def test_what_only_repeats_the_first_problem_is_left_out(
    data: dict[str, Any], said: str, unsaid: str
) -> None:
    stage = {"at": "pre_llm", "strategy": "fopru", "keep": 8, **data}
    if "stratgy" in data:
        del stage["strategy"]
    with pytest.raises(PlanError) as caught:
        load_plan({"stages": [stage]})
    assert said in str(caught.value)
    assert unsaid not in str(caught.value)
