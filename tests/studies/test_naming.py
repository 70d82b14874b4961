"""Names of plans: templates, and what they may ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tokenprune.errors import PlanError
from tokenprune.lab.judge.breaking import LONG, broken, parts_of
from tokenprune.lab.studies import Study, cells

STAGE = {"at": "pre_llm", "strategy": "fopru", "keep": 8}
TWO = [STAGE, {"at": "decoder", "strategy": "fastv", "layer": 2, "keep": 0.5}]


def names(name: str | None, stages: Any = (STAGE,), **grid: list[Any]) -> list[str]:
    plan = {"plan": {"stages": [*stages]}, "name": name, "grid": grid}
    study = Study.model_validate({"out": Path("o"), "plans": [plan]})
    return [cell.name for cell in cells(study)][1:]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{strategy}-{keep}", ["fopru-8", "fopru-4", "vscan-8", "vscan-4"]),
        ("{at}, {stages.0.keep} {strategy}", ["pre_llm, 8 fopru", "pre_llm, 4 fopru",
                                              "pre_llm, 8 vscan", "pre_llm, 4 vscan"]),
        ("{{{keep}}} {strategy} s{seed}", ["{8} fopru s0", "{4} fopru s0",
                                           "{8} vscan s0", "{4} vscan s0"]),
    ],
)  # fmt: skip
def test_a_template_is_filled_from_plan_and_grid(template: str, expected: list[str]) -> None:
    grid = {"stages.0.strategy": ["fopru", "vscan"], "stages.0.keep": [8, 4]}
    assert names(template, **grid) == expected


def test_later_stages_go_by_their_number() -> None:
    grid = {"stages.1.keep": [0.5, 0.25], "seed": [0, 1]}
    assert names("{strategy} {1.keep} s{seed}", TWO, **grid) == [
        f"fopru+fastv {keep} s{seed}" for keep in (0.5, 0.25) for seed in (0, 1)
    ]
    assert names("{keep}", TWO, **{"stages.1.keep": [0.25]}) == ["8+0.25"]


def test_without_a_template_the_grid_is_told_behind_the_name() -> None:
    assert names("mine", **{"stages.0.keep": [8, 4]}) == ["mine keep=8", "mine keep=4"]
    assert names("two", TWO, **{"stages.1.keep": [0.25]}) == ["two 1.keep=0.25"]
    assert names(None) == ["plan"]
    assert names("{strategy}") == ["fopru"]


def test_what_a_name_asks_for_has_to_be_there() -> None:
    with pytest.raises(PlanError, match=r"plans\.0.*name: the name asks for 'kep'") as caught:
        names("{kep}")
    assert "keep" in caught.value.remedy
    with pytest.raises(PlanError, match="asks for ''"):
        names("{}")


def test_a_template_that_tells_too_little_says_so() -> None:
    with pytest.raises(PlanError, match=r"two plans of .* are called 'fopru'") as caught:
        names("{strategy}", **{"stages.0.keep": [8, 4]})
    assert "'{strategy}-{keep}'" in caught.value.remedy


def test_plans_of_different_models_may_share_a_name() -> None:
    entries = [
        {"plan": {"stages": [{**STAGE, "keep": keep}]}, "name": "half", "models": models}
        for keep, models in ((8, ["small"]), (32, ["large"]), (16, ["large"]))
    ]
    data = {"out": Path("o"), "models": [{"title": "small"}, {"title": "large"}]}
    found = cells(Study.model_validate({**data, "plans": entries[:2]}))
    told = [(cell.number, cell.label, cell.plan.stages[0].keep) for cell in found if cell.entry]
    assert told == [(1, "half, image, small", 8), (3, "half, image, large", 32)]
    with pytest.raises(PlanError, match="two plans of the model 'large' are called 'half'"):
        cells(Study.model_validate({**data, "plans": entries}))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("evoprune-64", ["evoprune-", "64"]),
        ("enc strategy=tome keep=8", ["enc ", "strategy=", "tome ", "keep=", "8"]),
        ("plain", ["plain"]),
        ("a--b", ["a--", "b"]),
        ("", [""]),
    ],
)
def test_lines_break_behind_separators_only(name: str, parts: list[str]) -> None:
    assert parts_of(name) == parts


@pytest.mark.parametrize(
    "name",
    ["two keep=64 1.keep=0.25 strategy=cls_inflection", "short", "w" * 40, "a b " * 20, ""],
)
def test_long_names_are_broken_between_their_parts(name: str) -> None:
    lines = broken(name).split("\n")
    assert "".join(lines).replace(" ", "") == name.replace(" ", "")
    assert all(len(line) <= LONG or len(parts_of(line)) == 1 for line in lines)
    if len(name) <= LONG:
        assert lines == [name]
