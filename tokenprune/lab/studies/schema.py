"""JSON Schema of study files, with that of plans inside."""

from __future__ import annotations

from typing import Any

from tokenprune.lab.studies.model import Study
from tokenprune.plan import plan_schema


def study_schema() -> dict[str, Any]:
    """The schema, for editors and for checks outside Python."""
    plan = plan_schema()
    schema: dict[str, Any] = _bare(Study.model_json_schema())
    definitions = schema["$defs"]
    definitions.update(plan.pop("$defs"))
    dialect = plan.pop("$schema")
    definitions["Plan"] = plan
    definitions["PlanEntry"]["properties"]["plan"]["anyOf"] = [
        {"type": "string"},
        {"$ref": "#/$defs/Plan"},
    ]
    return {"$schema": dialect, **schema}


def _bare(value: Any) -> Any:
    """Without pydantic's own formats: no other reader knows `path`."""
    if isinstance(value, dict):
        return {
            key: _bare(item) for key, item in value.items() if (key, item) != ("format", "path")
        }
    return [_bare(item) for item in value] if isinstance(value, list) else value
