from __future__ import annotations

import json
from typing import Any

import pytest

from tests.plan.json_schema import complaints
from tokenprune.plan import plan_schema
from tokenprune.plugins.host import host

STAGE: dict[str, Any] = {"at": "encoder", "strategy": "toy_merge", "keep": 128}


def test_every_strategy_is_in_it_and_every_reference_resolves() -> None:
    schema = plan_schema()
    text = json.dumps(schema)
    names = schema["$defs"]["StagePlan"]["properties"]["strategy"]["enum"]
    assert names == sorted(host().strategies)
    for part in text.split('"#/$defs/')[1:]:
        assert part.split('"')[0] in schema["$defs"]


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"schema_version": 1, "extends": "base.yaml", "stages": []},
        {"stages": [STAGE]},
        {"stages": [{**STAGE, "keep": 1}]},
        {"stages": [{**STAGE, "keep": 1.0, "schedule": "mean", "layers": [0, 3]}]},
        {"stages": [{**STAGE, "schedule": [1, 2]}]},
        {"stages": [{**STAGE, "schedule": {"name": "first", "blocks": 2}}]},
        {"stages": [{**STAGE, "params": {"width": "auto", "sizes": [1], "inner": {"depth": 2}}}]},
        {"stages": [{**STAGE, "at": "decoder", "strategy": "toy_any", "keep": {"average": 20}}]},
        {"stages": [{"at": "decoder", "strategy": "fastv", "keep": 20, "keep_text": 1}]},
        {"stages": [{"at": "decoder", "strategy": "fastv", "keep": 20, "keep_text": 0.5}]},
    ],
)
def test_what_fits(plan: dict[str, Any]) -> None:
    assert complaints(plan, plan_schema()) == []


@pytest.mark.parametrize(
    "plan",
    [
        {"stage": []},
        {"schema_version": 2},
        {"stages": [{**STAGE, "kep": 2}]},
        {"stages": [{"at": "encoder", "keep": 2}]},
        {"stages": [{**STAGE, "keep": 0}]},
        {"stages": [{**STAGE, "keep": 1.5}]},
        {"stages": [{**STAGE, "keep": "128"}]},
        {"stages": [{"at": "decoder", "strategy": "fastv", "keep": 20, "keep_text": 0}]},
        {"stages": [{"at": "decoder", "strategy": "fastv", "keep": 20, "keep_text": 1.5}]},
        {"stages": [{**STAGE, "at": "decoder"}]},
        {"stages": [{**STAGE, "strategy": "nobody"}]},
        {"stages": [{**STAGE, "schedule": "skp"}]},
        {"stages": [{**STAGE, "layers": [1]}]},
        {"stages": [{**STAGE, "params": {"wight": 1}}]},
        {"stages": [{**STAGE, "params": {"weight": 0}}]},
        {"stages": [{**STAGE, "params": {"inner": {"deep": 1}}}]},
    ],
)
def test_what_does_not_fit(plan: dict[str, Any]) -> None:
    assert complaints(plan, plan_schema())
