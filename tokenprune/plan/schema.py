"""JSON Schema of plan files, with the params of every registered strategy."""

from __future__ import annotations

from typing import Any

from tokenprune.interface.placement import Decoder
from tokenprune.interface.strategy import PruningStrategy, places
from tokenprune.plan.model import Plan
from tokenprune.plugins.host import host

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def plan_schema() -> dict[str, Any]:
    """The schema, for editors and for checks outside Python.

    A stage's `params` and `at` depend on its `strategy` through if/then.
    """
    schema = Plan.model_json_schema()
    definitions: dict[str, Any] = schema.setdefault("$defs", {})
    strategies = dict(sorted(host().strategies.items()))
    stage = definitions["StagePlan"]
    for key in ("keep", "keep_text"):
        for form in stage["properties"][key]["anyOf"]:
            if "oneOf" in form:
                form["anyOf"] = form.pop("oneOf")  # 1 is both one token and the ratio 1.0
    stage["properties"]["strategy"]["enum"] = list(strategies)
    stage["allOf"] = [_rule(name, strategy) for name, strategy in strategies.items()]
    for name, strategy in strategies.items():
        definitions.update(_definitions(name, strategy))
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "A plan file to start from, relative to this file.",
    }
    return {"$schema": DIALECT, **schema}


def _rule(name: str, strategy: type[PruningStrategy[Any]]) -> dict[str, Any]:
    told = {"params": {"$ref": f"#/$defs/{name}"}, "at": {"enum": list(places(strategy))}}
    asked = {"properties": {"strategy": {"const": name}}, "required": ["strategy"]}
    then: dict[str, Any] = {"properties": told}
    # strategies of several steps need a budget only with `layer`; `check_plan` tells them apart
    stepping = any(isinstance(own, Decoder) and own.steps is not None for own in strategy.stages)
    if strategy.length != "own" and not stepping:
        then["required"] = ["keep"]
        then["properties"] = {**told, "keep": {"not": {"type": "null"}}}
    return {"if": asked, "then": then}


def _definitions(name: str, strategy: type[PruningStrategy[Any]]) -> dict[str, Any]:
    params = strategy.Params.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
    inner = {f"{name}.{key}": value for key, value in params.pop("$defs", {}).items()}
    return {name: params, **inner}
