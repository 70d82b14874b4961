"""Files, `extends`, overrides and the way back to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tokenprune.errors import PlanError
from tokenprune.plan import Average, Plan, ScheduleSpec, dump_plan, load_plan

STAGE = {"at": "encoder", "strategy": "toy_merge", "keep": 128}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_as_documented(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "plan.yaml",
        """
        schema_version: 1
        name: two stages
        seed: 7
        positions: compact
        stages:
          - at: encoder
            strategy: toy_merge
            keep: 128
            schedule: {name: first, blocks: 13}
            layers: [2, 20]
            params: {weight: 2, mode: far}
          - {at: decoder, strategy: toy_any, layer: 2, keep: {average: 192}}
        """,
    )
    plan = load_plan(path)
    assert plan == load_plan(str(path))
    assert (plan.name, plan.seed, plan.positions) == ("two stages", 7, "compact")
    first, second = plan.stages
    assert (first.keep, first.layers) == (128, (2, 20))
    assert first.schedule == ScheduleSpec(name="first", blocks=13)
    assert first.params == {"weight": 2.0, "mode": "far"}
    assert second.keep == Average(average=192)


def test_no_stages_is_dense() -> None:
    assert load_plan({}) == Plan() == load_plan(Plan())
    assert Plan().stages == ()


def test_tokens_and_ratios_stay_apart() -> None:
    one = load_plan({"stages": [{**STAGE, "keep": 1}]}).stages[0].keep
    all_of_them = load_plan({"stages": [{**STAGE, "keep": 1.0}]}).stages[0].keep
    assert isinstance(one, int)
    assert isinstance(all_of_them, float)


def test_plans_are_frozen() -> None:
    plan = load_plan({"stages": [STAGE]})
    with pytest.raises(ValueError, match="frozen"):
        plan.seed = 3  # type: ignore[misc]


def test_extends_merges_mappings_and_replaces_lists(tmp_path: Path) -> None:
    write(tmp_path, "base/root.yaml", "seed: 3\npositions: compact\nname: root\n")
    write(
        tmp_path,
        "base/middle.yaml",
        "extends: root.yaml\nseed: 4\nstages: [{at: encoder, strategy: toy_merge, keep: 64}]\n",
    )
    child = write(tmp_path, "child.yaml", "extends: base/middle.yaml\nname: child\n")
    plan = load_plan(child)
    assert (plan.name, plan.seed, plan.positions) == ("child", 4, "compact")
    assert plan.stages[0].keep == 64
    bare = write(tmp_path, "bare.yaml", "extends: base/middle.yaml\nstages: []\n")
    assert load_plan(bare).stages == ()


def test_extends_of_a_mapping_starts_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "base.yaml", "seed: 3\n")
    monkeypatch.chdir(tmp_path)
    assert load_plan({"extends": "base.yaml"}).seed == 3


def test_extending_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "extends: b.yaml\n")
    write(tmp_path, "b.yaml", "extends: c.yaml\n")
    write(tmp_path, "c.yaml", "extends: a.yaml\n")
    with pytest.raises(PlanError, match=r"a\.yaml -> b\.yaml -> c\.yaml -> a\.yaml"):
        load_plan(tmp_path / "a.yaml")
    itself = write(tmp_path, "itself.yaml", "extends: itself.yaml\n")
    with pytest.raises(PlanError, match=r"itself\.yaml -> itself\.yaml"):
        load_plan(itself)


def test_overrides_of_every_kind() -> None:
    source = {"stages": [STAGE, {"at": "decoder", "strategy": "toy_any", "layer": 2, "keep": 0.5}]}
    plan = load_plan(
        source,
        overrides=[
            "stages.0.keep=64",
            "stages.0.params.weight=0.5",
            "stages.0.schedule={name: last, blocks: 3}",
            "stages.1.keep={average: 100}",
            "stages.1.layer=4",
            "name=x=y",
            "seed = 3",
        ],
    )
    assert plan.stages[0].keep == 64
    assert plan.stages[0].params == {"weight": 0.5}
    assert plan.stages[0].schedule == ScheduleSpec(name="last", blocks=3)
    assert plan.stages[1].keep == Average(average=100)
    assert (plan.stages[1].layer, plan.name, plan.seed) == (4, "x=y", 3)
    same = load_plan(source, overrides={"stages.0.keep": 64, "stages.0.params": {"weight": 0.5}})
    assert same.stages[0].params == {"weight": 0.5}
    assert source["stages"][0] == STAGE, "the source is left alone"
    assert load_plan(plan, overrides=["seed=9"]).stages == plan.stages
    nulled = load_plan(plan, overrides={"stages.0.schedule": None})
    assert nulled.stages[0].schedule is None


def test_overrides_apply_after_extends(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "stages: [{at: encoder, strategy: toy_merge, keep: 64}]\n")
    child = write(tmp_path, "child.yaml", "extends: base.yaml\n")
    assert load_plan(child, overrides=["stages.0.keep=32"]).stages[0].keep == 32


budgets = st.one_of(
    st.integers(1, 10**6),
    st.floats(1e-6, 1, allow_nan=False),
)
schedules: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.sampled_from(["mean", "skip", "first", "last", "increasing", "decreasing"]),
    st.lists(st.integers(0, 500), max_size=5),
    st.builds(lambda n: {"name": "first", "blocks": n}, st.integers(1, 30)),
    st.builds(lambda p: {"name": "increasing", "power": p}, st.floats(0.1, 5)),
)
params = st.fixed_dictionaries(
    {},
    optional={
        "weight": st.floats(0.001, 1e9),
        "mode": st.sampled_from(["near", "far"]),
        "width": st.one_of(st.just("auto"), st.floats(-1e9, 1e9)),
        "sizes": st.lists(st.integers(), max_size=3),
        "inner": st.fixed_dictionaries({"depth": st.integers()}),
    },
)
encoder = st.fixed_dictionaries(
    {"at": st.just("encoder"), "strategy": st.just("toy_merge"), "keep": budgets},
    optional={"schedule": schedules, "params": params},
)
decoder = st.fixed_dictionaries(
    {
        "at": st.just("decoder"),
        "strategy": st.just("toy_any"),
        "layer": st.integers(0, 99),
        "keep": st.one_of(budgets, st.builds(lambda a: {"average": a}, st.floats(1, 1e4))),
    },
    optional={"params": params, "keep_text": budgets},
)
plans = st.fixed_dictionaries(
    {"schema_version": st.just(1)},
    optional={
        "name": st.text(max_size=12),
        "seed": st.integers(0, 2**40),
        "positions": st.sampled_from(["original", "compact"]),
        "stages": st.tuples(encoder, decoder).map(list),
    },
)


@settings(max_examples=40)
@given(source=plans)
@example(source={"name": "a\x85b"})
def test_load_dump_load_is_the_identity(source: dict[str, Any]) -> None:
    plan = load_plan(source)
    text = dump_plan(plan)
    again = load_plan(yaml.safe_load(text))
    assert again == plan
    assert dump_plan(again) == text
    kinds = [(type(stage.keep), type(stage.keep_text)) for stage in plan.stages]
    assert [(type(stage.keep), type(stage.keep_text)) for stage in again.stages] == kinds


def test_dump_keeps_files_short(tmp_path: Path) -> None:
    plan = load_plan({"stages": [{**STAGE, "params": {"sizes": (1, 2)}}]})
    text = dump_plan(plan)
    assert text.startswith("schema_version: 1\n")
    assert "seed" not in text
    assert load_plan(write(tmp_path, "out.yaml", text)) == plan


def test_what_no_file_can_hold() -> None:
    plan = Plan.model_validate({"stages": [{**STAGE, "params": {"weight": object()}}]})
    with pytest.raises(PlanError, match="no file can hold"):
        dump_plan(plan)
